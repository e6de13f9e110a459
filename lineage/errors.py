"""A fault: one clear sentence for the user."""

from __future__ import annotations


class Fault(Exception):  # noqa: N818 - it is no error of ours
    """Says what is wrong, with which file or value, and what to do. Commands and pages show it without a traceback."""
