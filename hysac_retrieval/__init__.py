"""Safe search over images and text in Qdrant with hyperbolic safety-aware CLIP (HySAC).

The names below are loaded when they are first used, so that importing the package stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hysac_retrieval import lorentz
    from hysac_retrieval.encoder import Encoder
    from hysac_retrieval.errors import HysacError
    from hysac_retrieval.explain import Explanation
    from hysac_retrieval.index import Index
    from hysac_retrieval.policy import AuditRecord, LabelRule, SafetyPolicy
    from hysac_retrieval.queries import Examples, PointRef, Text
    from hysac_retrieval.results import GroupedResult, Hit, QueryInfo, SearchResult
    from hysac_retrieval.safety import SafetyProfile
    from hysac_retrieval.search import SafeSearch, connect
    from hysac_retrieval.search_async import AsyncSafeSearch, aconnect

__version__ = "0.1.0"

__all__ = [
    "AsyncSafeSearch",
    "AuditRecord",
    "Encoder",
    "Examples",
    "Explanation",
    "GroupedResult",
    "Hit",
    "HysacError",
    "Index",
    "LabelRule",
    "PointRef",
    "QueryInfo",
    "SafeSearch",
    "SafetyPolicy",
    "SafetyProfile",
    "SearchResult",
    "Text",
    "aconnect",
    "connect",
    "lorentz",
]

_HOMES = {
    "AsyncSafeSearch": "search_async",
    "AuditRecord": "policy",
    "Encoder": "encoder",
    "Examples": "queries",
    "Explanation": "explain",
    "GroupedResult": "results",
    "Hit": "results",
    "HysacError": "errors",
    "Index": "index",
    "LabelRule": "policy",
    "PointRef": "queries",
    "QueryInfo": "results",
    "SafeSearch": "search",
    "SafetyPolicy": "policy",
    "SafetyProfile": "safety",
    "SearchResult": "results",
    "Text": "queries",
    "aconnect": "search_async",
    "connect": "search",
}


def __getattr__(name: str) -> Any:
    if name == "lorentz":
        return import_module("hysac_retrieval.lorentz")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # asked for once, then an ordinary attribute
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
