"""Calibration and evaluation of models, with tables and plots."""
