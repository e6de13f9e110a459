"""What we learn: models fitted, calibrated, evaluated, compared and gated."""
