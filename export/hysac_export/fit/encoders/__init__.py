"""Encoders that exist, each opened by a spec: their vectors, and the graphs that a fitted bundle carries."""
