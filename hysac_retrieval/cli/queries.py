"""What the commands that search share: reading queries and filters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder

F = TypeVar("F", bound=Callable[..., Any])


def query_of(given: str) -> str | Path:
    """A query of the command line: a text, or the path of an image."""
    return Path(given) if is_image(given) else given


def is_image(given: str) -> bool:
    """Whether a query means a file: one with an image's suffix that is missing must not become a text query."""
    from hysac_retrieval.search.queries import IMAGE_SUFFIXES

    return Path(given).suffix.lower() in IMAGE_SUFFIXES and (Path(given).exists() or " " not in given)


def warn_if_cut(encoder: Encoder, given: Iterable[str]) -> None:
    """Say on stderr that a text is longer than the model reads."""
    for text in given:
        if not is_image(text) and encoder.count_tokens(text) > encoder.text_spec.context_length:
            click.echo("The query is longer than the model reads; only its beginning counts.", err=True)
            return


def filter_option(function: F) -> F:
    """Add ``--filter``, the parameter `condition`."""
    return click.option(
        "--filter",
        "condition",
        metavar="JSON",
        callback=_filter,
        help="Qdrant filter on the payload; it can only narrow.",
    )(function)


def _filter(context: click.Context, option: click.Parameter, condition: str | None) -> dict[str, Any] | None:
    if condition is None:
        return None
    try:
        value = json.loads(condition)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.BadParameter(f"expected a JSON object, found {type(value).__name__}")
    return value
