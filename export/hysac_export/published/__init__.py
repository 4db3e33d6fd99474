"""Checkpoints and evaluation of the published code."""
