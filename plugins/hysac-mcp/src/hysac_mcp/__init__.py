"""Safe search over images and text in Qdrant (HySAC), as a server of the Model Context Protocol."""

from hysac_mcp.main import main
from hysac_mcp.server import make_server
from hysac_mcp.settings import Settings

__all__ = ["Settings", "main", "make_server"]
