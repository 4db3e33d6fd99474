"""Safe search: from a request to hits, blocking and asynchronous."""
