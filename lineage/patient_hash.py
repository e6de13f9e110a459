"""The hash that the record stores in place of a patient's pseudonym."""

from __future__ import annotations

from lineage.fingerprint import text_sha256


def hash_pseudonym(pseudonym: str) -> str:
    """The SHA-256 of "withdrawn " and a pseudonym: not reversible, and equal for all rows of one patient.

    The journal uses it for every prediction, the ledger for every withdrawal.
    """
    return text_sha256(f"withdrawn {pseudonym}")
