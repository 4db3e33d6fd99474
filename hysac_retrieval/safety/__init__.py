"""Safety of queries and points: calibration, redirect, filter, verdict, policy."""
