"""Collections in a folder, on Qdrant's embedded engine."""
