"""Safe search over images and text in Qdrant with hyperbolic safety-aware CLIP (HySAC).

The names below are loaded when they are first used, so that importing the package stays light.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hysac_retrieval import lorentz
    from hysac_retrieval.collection.index import Index
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.errors import HysacError
    from hysac_retrieval.guard import AsyncSafeQdrantClient, Guard, SafeQdrantClient
    from hysac_retrieval.results import GroupedResult, Hit, QueryInfo, SearchResult
    from hysac_retrieval.safety.policy import AuditRecord, LabelRule, SafetyPolicy
    from hysac_retrieval.safety.profile import SafetyProfile
    from hysac_retrieval.search.asynchronous import AsyncSafeSearch
    from hysac_retrieval.search.blocking import SafeSearch
    from hysac_retrieval.search.connecting import aconnect, connect
    from hysac_retrieval.search.explain import Explanation
    from hysac_retrieval.search.queries import Examples, LorentzPoint, PointRef

if sys.version_info < (3, 11):  # noqa: UP036  # pip refuses it; a copy on the path of an older Python does not
    from hysac_retrieval.errors import VersionError

    raise VersionError(
        f"hysac-retrieval needs Python 3.11 or later; this is {sys.version.split()[0]}",
        hint="Make an environment with a newer Python; a Qdrant server that older programs use needs no change",
    )

__version__ = "0.1.0"

__all__ = [
    "AsyncSafeQdrantClient",
    "AsyncSafeSearch",
    "AuditRecord",
    "Encoder",
    "Examples",
    "Explanation",
    "GroupedResult",
    "Guard",
    "Hit",
    "HysacError",
    "Index",
    "LabelRule",
    "LorentzPoint",
    "PointRef",
    "QueryInfo",
    "SafeQdrantClient",
    "SafeSearch",
    "SafetyPolicy",
    "SafetyProfile",
    "SearchResult",
    "aconnect",
    "connect",
    "lorentz",
]

_HOMES = {
    "AsyncSafeQdrantClient": "guard",
    "AsyncSafeSearch": "search.asynchronous",
    "AuditRecord": "safety.policy",
    "Encoder": "encoder.encoder",
    "Examples": "search.queries",
    "Explanation": "search.explain",
    "GroupedResult": "results",
    "Guard": "guard",
    "Hit": "results",
    "HysacError": "errors",
    "Index": "collection.index",
    "LabelRule": "safety.policy",
    "LorentzPoint": "search.queries",
    "PointRef": "search.queries",
    "QueryInfo": "results",
    "SafeQdrantClient": "guard",
    "SafeSearch": "search.blocking",
    "SafetyPolicy": "safety.policy",
    "SafetyProfile": "safety.profile",
    "SearchResult": "results",
    "aconnect": "search.connecting",
    "connect": "search.connecting",
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
