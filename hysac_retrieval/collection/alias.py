"""An alias that moves: a new collection is built beside the old one, and searches go over to it when it is complete."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from hysac_retrieval.errors import CollectionExistsError, SettingsError
from hysac_retrieval.stores.base import Store

_STAMP = r"\d{8}-\d{6}"


def name_under(alias: str) -> str:
    """Return a name for a new collection that an alias is to point to: the alias and the time, in UTC."""
    return f"{alias}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def expect_alias(store: Store, alias: str) -> None:
    """Check that an alias is one, or can become one.

    Raises:
        SettingsError: A collection itself has that name, or the store has no aliases.
    """
    if alias in store.names():
        what = f"{alias!r} is a collection itself, not an alias"
        raise SettingsError(what, hint="Give another name for the alias, or --collection without --alias")
    store.aliases()


def switch(store: Store, alias: str, name: str, keep: int = 0) -> list[str]:
    """Point an alias to a collection that is complete, and remove older ones that were built for it.

    Args:
        store: The store of both.
        alias: The alias; it is made if need be.
        name: The collection, named by `name_under`, or otherwise.
        keep: How many older ones stay, the newest of them.

    Returns:
        Names of the collections that were removed.

    Raises:
        CollectionExistsError: The alias points to a newer collection already, of another run.
    """
    built = re.compile(re.escape(alias) + "-" + _STAMP)
    before = store.aliases().get(alias)
    if before is not None and built.fullmatch(before) and built.fullmatch(name) and before > name:
        raise CollectionExistsError(
            f"the alias {alias!r} was moved meanwhile to {before!r}, which is newer than {name!r}",
            hint=f"Another run was quicker. {name!r} is complete and was left as it is; remove it, or the other",
        )
    store.point_alias(alias, name)
    older = sorted((other for other in store.names() if built.fullmatch(other) and other < name), reverse=True)
    for other in older[keep:]:
        store.drop(other)
    return older[keep:]
