"""What is safe, and who may ask for more: calibration, redirect, filter, policy."""
