"""Fault: an error with one clear sentence for the user."""

from __future__ import annotations


class Fault(Exception):  # noqa: N818  the user's situation, not a programming error
    """Says what is wrong, with which file or value, and what to do. Commands and pages show no traceback for it."""
