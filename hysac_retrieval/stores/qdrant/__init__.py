"""Collections behind a `QdrantClient`: a server, a cloud cluster, or the client's local mode."""
