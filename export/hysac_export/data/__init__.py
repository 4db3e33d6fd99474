"""Training data: scenes that are drawn, and quadruplets in files."""
