"""Train, calibrate, evaluate and export HySAC encoders (extra `train`)."""
