"""Releases and Bentos: built, checked, started."""
