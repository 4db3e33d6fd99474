"""Search: options of a call, and the frozen request that they become."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo

from hysac_retrieval.collection.request import (
    CommonOptions,
    GroupRequest,
    KnownModality,
    PageRequest,
    QueryOptions,
    Request,
)
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.safety.filters import checked_count
from hysac_retrieval.types import Modality


class GroupOptions(CommonOptions, total=False):
    """Options of a grouped search.

    Attributes:
        query_modality: What a point was encoded from. Without it a point is held to both calibrations.
        context: Who asked, and what else an audit should know; goes into the `AuditRecord` as it is.
    """

    query_modality: Modality | None
    context: Mapping[str, Any] | None


class SearchOptions(QueryOptions, total=False):
    """Options of a search. An unsafe query of a safe search is redirected toward its safe counterpart.

    Attributes:
        query_modality: What a point was encoded from. Without it a point is held to both calibrations.
        context: Who asked, and what else an audit should know; goes into the `AuditRecord` as it is.
    """

    query_modality: Modality | None
    context: Mapping[str, Any] | None


class ExplainOptions(GroupOptions, total=False):
    """Options of `SafeSearch.explain`.

    Attributes:
        steps: Points from the query to the origin, both included, 2 to 64. Default 9.
        near: Texts and points to show at each, 1 to 20. Default 3.
    """

    steps: int
    near: int


def _context(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise SettingsError(
            f"context is {type(value).__name__}; expected a mapping", hint="Give one such as {'user': …}"
        )
    return dict(value or {})


Context = Annotated[dict[str, Any], BeforeValidator(_context), Field(default_factory=dict)]


def _between(value: Any, info: ValidationInfo, least: int, most: int) -> int:
    return checked_count(value, str(info.field_name), most, least=least)


class SearchRequest(PageRequest):
    """A search; see `SearchOptions`."""

    query_modality: KnownModality = None
    context: Context


class GroupSearchRequest(GroupRequest):
    """A grouped search; see `GroupOptions`."""

    query_modality: KnownModality = None
    context: Context


class ExplainRequest(Request):
    """An explanation; see `ExplainOptions`."""

    query_modality: KnownModality = None
    context: Context
    steps: Annotated[int, BeforeValidator(partial(_between, least=2, most=64))] = 9
    near: Annotated[int, BeforeValidator(partial(_between, least=1, most=20))] = 3


AnyRequest = SearchRequest | GroupSearchRequest | ExplainRequest
