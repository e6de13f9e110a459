"""Recovery of a workspace after an interruption or damage: finish or undo, verify, repair."""
