"""The limit of an upload: the bytes that a form may add to its files, and the sentence of a refusal."""

from __future__ import annotations

FORM_OVERHEAD = 1 << 20  # bytes that form fields and part headers may add to the files


def is_too_large(size: int, limit: int) -> bool:
    """Whether a body of `size` bytes exceeds the limit of its files (bytes) by more than a form adds."""
    return size > limit + FORM_OVERHEAD


def refusal_sentence(limit: int) -> str:
    """The sentence for a sender whose files exceed the limit (bytes)."""
    return f"The upload is over {limit / 1e6:g} MB; send fewer or smaller files."
