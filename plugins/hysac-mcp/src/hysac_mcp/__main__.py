"""``python -m hysac_mcp``."""

from hysac_mcp.main import main

main()
