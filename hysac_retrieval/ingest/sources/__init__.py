"""Sources of items: files, tables, shards, datasets, collections."""
