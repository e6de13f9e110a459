"""The training gate: the comparison of a challenger with champion and anchor."""
