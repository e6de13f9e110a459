"""Evaluation of a fitted model: calibration, metrics, subgroups, heat-map checks, plots."""
