"""Model bundles, and the encoders that run them."""
