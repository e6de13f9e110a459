"""A patient's mark: the hash that the record keeps in place of a pseudonym, before a withdrawal and after it."""

from __future__ import annotations

from lineage.fingerprint import text_sha256


def mark(pseudonym: str) -> str:
    """The SHA-256 of a pseudonym, from which nobody gets it back; rows of one patient still share one mark."""
    return text_sha256(f"withdrawn {pseudonym}")
