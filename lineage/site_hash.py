"""Keyed hashes of the sources of scans: of a site (an institution) and of a scanner. No name of either is stored."""

from __future__ import annotations

import hmac

from lineage import keys

DIGITS = 32  # hexadecimal digits of a hash


def hash_site(name: str) -> str:
    """The hash of an institution's name; "" for an empty name. Spellings in other case or spaces have the same hash."""
    return _keyed("site", name)


def hash_scanner(name: str) -> str:
    """The hash of a scanner, named by manufacturer and model; "" for an empty name."""
    return _keyed("scanner", name)


def _keyed(kind: str, name: str) -> str:
    plain = " ".join(name.casefold().split())
    return hmac.digest(keys.key("source"), f"{kind}\n{plain}".encode(), "sha256").hex()[:DIGITS] if plain else ""
