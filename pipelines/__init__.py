"""When: flows and commands only, no arithmetic."""
