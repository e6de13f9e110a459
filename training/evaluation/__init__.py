"""What a fitted model is worth: calibration, metrics, subgroups, heat-map checks, plots."""
