"""Arguments of guarded methods as values: rebuilt from their JSON form, in exactly the types that are expected.

What a caller gives may be of a class of its own, which copies or compares as it likes, or answers otherwise when it is
read again. Each argument is therefore read once; what goes on is made of what was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json
from qdrant_client import models

from hysac_retrieval.errors import SettingsError

_Shown = bool | list[str] | models.PayloadSelectorInclude | models.PayloadSelectorExclude | None

KINDS: Mapping[str, Any] = {
    "collection_name": str,
    "consistency": models.ReadConsistency | None,
    "exact": bool,
    "filter": models.Filter | None,
    "group_by": str,
    "group_size": int,
    "ids": list[Any],
    "key": str,
    "limit": int,
    "lookup_from": models.LookupLocation | None,
    "offset": models.ExtendedPointId | None,
    "order_by": models.OrderByInterface | None,
    "prefetch": list[models.Prefetch] | models.Prefetch | None,
    "query": models.QueryInterface | None,
    "requests": list[models.QueryRequest],
    "sample": int,
    "score_threshold": float | None,
    "search_params": models.SearchParams | None,
    "shard_key_selector": models.ShardKeySelector | None,
    "timeout": int | None,
    "using": str | None,
    "with_lookup": str | models.WithLookup | None,
    "with_payload": _Shown,
    "with_vectors": bool | list[str] | None,
}
"""Type of each argument of a guarded method; ``filter`` is that of all filters."""


def taken(name: str, value: Any) -> Any:
    """Return an argument as a value of its type. Models may be in their JSON form where qdrant-client takes that.

    Raises:
        SettingsError: It is of another type.
    """
    try:
        if name == "requests":
            value = list(value)
        _expect_models(name, value)
        plain = from_json(to_json(value, by_alias=True, exclude_none=True, fallback=_plain))
        return _adapter(name).validate_python(plain)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        why = f"{'.'.join(map(str, first['loc'])) or name}: {first['msg']}"
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        why = str(error)
    raise SettingsError(
        f"{name} is {type(value).__name__}, which the guard cannot judge: {why}",
        hint="Give plain values, or the models of qdrant_client.models",
    )


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(KINDS[name])


def _expect_models(name: str, value: Any) -> None:
    """Raise `TypeError` for a dictionary in place of a query or a request, which the client does not take."""
    if (name == "query" and isinstance(value, Mapping)) or (
        name == "requests" and any(isinstance(one, Mapping) for one in value)
    ):
        raise TypeError("expected one of qdrant_client.models")


def _plain(value: Any) -> Any:
    """Return what pydantic does not know as a value that it knows."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
