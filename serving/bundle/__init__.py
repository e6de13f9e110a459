"""Build, check and start releases and Bentos."""
