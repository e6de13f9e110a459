"""The HTTP endpoint of a release."""
