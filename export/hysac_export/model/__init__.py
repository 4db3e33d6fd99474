"""The model in torch: towers, adapters, tokenizers."""
