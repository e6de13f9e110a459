"""Models: fit, calibrate, evaluate, compare and promote them."""
