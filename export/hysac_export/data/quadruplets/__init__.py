"""Quadruplets in files: rows, training and validation sets, their check, batches."""
