"""Safe search over HTTP (extra ``serve``): an application, or a router for one that exists.

Nothing else in this package imports this wing; it is loaded with FastAPI, and only when it is asked for.
"""

from hysac_retrieval.service.app import create_app, create_router
from hysac_retrieval.service.settings import Limits, Proxy, ServiceSettings

__all__ = ["Limits", "Proxy", "ServiceSettings", "create_app", "create_router"]
