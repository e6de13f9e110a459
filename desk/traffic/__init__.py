"""Uploads on their way to the live release, and copies of them to a shadow."""
