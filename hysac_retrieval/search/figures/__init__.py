"""The explorer's page and its drawings: files that a browser runs as they are, and a page that holds all of them."""

from hysac_retrieval.search.figures.page import FILES, read_file

__all__ = ["FILES", "read_file"]
