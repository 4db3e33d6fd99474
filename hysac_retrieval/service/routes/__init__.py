"""Routes of the service, one module for each kind; `app` puts them together."""
