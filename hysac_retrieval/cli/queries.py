"""Read what to search with, and filters, from the command line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import click

from hysac_retrieval.cli.common import shorten
from hysac_retrieval.cli.options import Decorator, gathered
from hysac_retrieval.errors import ImageError, SettingsError
from hysac_retrieval.payload import stored_id

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.search.queries import Query, Single

Kind: TypeAlias = Literal["image", "text"] | None

_WHOLE = re.compile("0|[1-9][0-9]{0,19}")
_KINDS: tuple[Decorator, ...] = (
    click.option("--image", "kind", flag_value="image", default=None, help="Take queries for files of images."),
    click.option("--text", "kind", flag_value="text", help="Take queries for texts, even where a file has that name."),
)


def _threshold(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Read a number for both modalities, or ``text=…``, ``image=…`` or both; the model's calibration checks them."""
    if value is None:
        return None
    try:
        if "=" not in value:
            return float(value)
        named = (part.partition("=") for part in value.split(","))
        return {kind.strip(): float(number) for kind, _, number in named}
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor of the form text=0.3,image=0.05") from None


threshold_option = click.option(
    "--threshold",
    metavar="NUMBER",
    callback=_threshold,
    help="Stricter threshold of the unsafe score than the model's; text=NUMBER,image=NUMBER for each its own.",
)


def one_query(given: str, kind: Kind) -> Single:
    """Read one query: the file of an image if it is named as one, else a text, unless `kind` says which."""
    from hysac_retrieval.encoder.formats import IMAGE_SUFFIXES
    from hysac_retrieval.search.queries import expect_no_url

    path = Path(os.path.expanduser(given))
    named_so = path.suffix.lower() in IMAGE_SUFFIXES
    exists = named_so and os.path.isfile(path)  # `Path.is_file` raises for a name that is too long
    if kind == "text":
        if exists:
            click.echo(f"Searching for the text {given!r}; --image would search by the picture of that name.", err=True)
        return given
    expect_no_url(given)
    if kind == "image" or exists:
        return path
    if named_so and " " not in given:
        raise ImageError(f"the image {shorten(given)} does not exist", hint="Give --text to search for these words")
    return given


def _query(
    query: str | None, similar: str | None, positive: tuple[str, ...], negative: tuple[str, ...], kind: Kind
) -> Query:
    if (query is not None) + (similar is not None) + bool(positive) != 1:
        hint = "Give one of a QUERY, --similar ID and --positive examples"
        raise SettingsError("what to search with is not clear", hint=hint)
    if negative and not positive:
        raise SettingsError("--negative goes with --positive examples", hint="Give the query as one of them")
    from hysac_retrieval.search.queries import Examples, PointRef

    if similar is not None:
        identity = stored_id(similar)
        return PointRef(similar if identity is None else identity)
    if query is not None:
        return one_query(query, kind)
    return Examples(*(tuple(one_query(example, kind) for example in examples) for examples in (positive, negative)))


query_options = gathered(
    "query",
    _query,
    click.argument("query", metavar="[QUERY|IMAGE]", required=False),
    *_KINDS,
    click.option("--similar", metavar="ID", help="Search with a stored point instead."),
    click.option("--positive", metavar="QUERY|IMAGE", multiple=True, help="Example of what is sought; repeatable."),
    click.option("--negative", metavar="QUERY|IMAGE", multiple=True, help="Example of what is not; repeatable."),
)
"""Decorator that adds what to search with, as the argument `query`."""

one_query_options = gathered(
    "query", lambda query, kind: one_query(query, kind), click.argument("query", metavar="QUERY|IMAGE"), *_KINDS
)
"""Decorator that adds one text or image to search with, as the argument `query`."""


def warn_if_cut(encoder: Encoder, query: Query) -> None:
    """Say on stderr if a text is longer than the model reads."""
    from hysac_retrieval.search.queries import Examples

    texts = (*query.positive, *query.negative) if isinstance(query, Examples) else (query,)
    if any(isinstance(text, str) and encoder.count_tokens(text) > encoder.context_length for text in texts):
        click.echo(
            "The query is longer than the model reads; only its beginning counts for what is found, all for its score.",
            err=True,
        )


def _filter(context: click.Context, option: click.Parameter, condition: str | None) -> dict[str, Any] | None:
    if condition is None:
        return None
    try:
        value = json.loads(condition)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and brackets in brackets
        raise click.BadParameter(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.BadParameter(f"expected a JSON object, found {type(value).__name__}")
    return value


def _shard_keys(context: click.Context, option: click.Parameter, keys: tuple[str, ...]) -> list[int | str] | None:
    """Read shard keys: whole numbers as Python writes them, words otherwise, and in quotes in any case."""
    words = (re.fullmatch('"(.+)"', key) for key in keys)
    read = [
        word[1] if word else int(key) if _WHOLE.fullmatch(key) else key for word, key in zip(words, keys, strict=True)
    ]
    return read or None


shard_key_option = click.option(
    "--shard-key",
    "shard_key_selector",
    metavar="KEY",
    multiple=True,
    callback=_shard_keys,
    help="Search this tenant, in a collection that is divided by tenants; repeatable. 7 is a number, '\"7\"' a word.",
)
filter_option = click.option(
    "--filter", metavar="JSON", callback=_filter, help="Qdrant filter on the payload; it can only narrow the result."
)
