"""A check that a DICOM element holds the kind of value that its attribute has: text must not pass as a number."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from lineage.errors import Fault

# The value representations of PS3.5, section 6.2, by the content of their bytes; all others are text.
KIND_REPRESENTATIONS = {
    "integers": "US SS UL SL UV SV",
    "floats": "FL FD",
    "bytes": "OB OW OF OD OL OV",
    "decimals": "DS IS",
    "UID": "UI",
    "tags": "AT",
    "items": "SQ",
}
KINDS = {representation: kind for kind, names in KIND_REPRESENTATIONS.items() for representation in names.split()}
SIZES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "UV": 8, "SV": 8, "FL": 4, "FD": 8, "AT": 4}  # bytes of a value
DECIMALS = re.compile(r"[0-9+\-.eE \\]*\0?")


def check_value(name: str, tag: int, representation: str, value: Any) -> None:
    """Fault if an element does not match the definition of its attribute in PS3.6.

    `representation` is what the file declares ("US or SS" if it declares none). `value` is the stored bytes or the
    parsed value. The message does not quote the value: it may be a name.
    """
    keyword, defined, multiplicity = _dictionary_entry(tag)
    if _kinds(representation).isdisjoint(_kinds(defined)):
        raise Fault(f"{name}: {keyword} is declared as {representation}, in DICOM it is {defined}; export it again")
    if value is None or value == "" or _is_valid(representation.split(" or ")[0], multiplicity, value):
        return
    raise Fault(f"{name}: {keyword} does not hold {defined} values; export it again")


@lru_cache(maxsize=1024)
def _dictionary_entry(tag: int) -> tuple[str, str, str]:
    """Keyword, value representation and multiplicity of an attribute in PS3.6."""
    from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag

    return keyword_for_tag(tag), dictionary_VR(tag), dictionary_VM(tag)


@lru_cache(maxsize=64)
def _kinds(representation: str) -> set[str]:
    return {KINDS.get(part, "text") for part in representation.split(" or ")}


def _is_valid(representation: str, multiplicity: str, value: Any) -> bool:
    """Whether decimals are digits, and numbers with a fixed multiplicity (PS3.6) are that many or none."""
    is_stored = isinstance(value, bytes)
    if KINDS.get(representation) == "decimals":
        parts = [value.decode("latin-1")] if is_stored else map(str, _values(value))
        return all(DECIMALS.fullmatch(part) for part in parts)
    if representation in SIZES and multiplicity.isdecimal():
        count = len(value) / SIZES[representation] if is_stored else len(_values(value))
        return count in (0, int(multiplicity))
    return True


def _values(value: Any) -> list[Any]:
    return list(value) if hasattr(value, "append") else [value]
