"""A workspace after an interruption or damage: finished, compared, repaired."""
