"""Whether a DICOM element holds the kind of value that its attribute has: text must not pass for a number."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from lineage.errors import Fault

# The value representations of PS3.5, section 6.2, by what their bytes are; all others are text.
KINDS = {
    "integers": "US SS UL SL UV SV",
    "floats": "FL FD",
    "bytes": "OB OW OF OD OL OV",
    "decimals": "DS IS",
    "UID": "UI",
    "tags": "AT",
    "items": "SQ",
}
KIND_OF = {representation: kind for kind, names in KINDS.items() for representation in names.split()}
SIZES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "UV": 8, "SV": 8, "FL": 4, "FD": 8, "AT": 4}  # bytes of a value
DECIMALS = re.compile(r"[0-9+\-.eE \\]*\0?")


def check(name: str, tag: int, representation: str, value: Any) -> None:
    """Fault where an element is not what PS3.6 says of its attribute.

    `representation` is what the file declares ("US or SS" where it declares none), `value` the bytes as stored, or the
    parsed value. The value itself is not quoted: it may be a name.
    """
    keyword, usual, multiplicity = _entry(tag)
    if _kinds(representation).isdisjoint(_kinds(usual)):
        raise Fault(f"{name}: {keyword} is declared as {representation}, in DICOM it is {usual}; export it again")
    if value is None or value == "" or _is_sound(representation.split(" or ")[0], multiplicity, value):
        return
    raise Fault(f"{name}: {keyword} does not hold {usual} values; export it again")


@lru_cache(maxsize=1024)
def _entry(tag: int) -> tuple[str, str, str]:
    """Keyword, value representation and multiplicity of an attribute in PS3.6."""
    from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag

    return keyword_for_tag(tag), dictionary_VR(tag), dictionary_VM(tag)


@lru_cache(maxsize=64)
def _kinds(representation: str) -> set[str]:
    return {KIND_OF.get(part, "text") for part in representation.split(" or ")}


def _is_sound(representation: str, multiplicity: str, value: Any) -> bool:
    """Decimals are digits; numbers of a fixed multiplicity (PS3.6) are as many as it says, or none."""
    is_stored = isinstance(value, bytes)
    if KIND_OF.get(representation) == "decimals":
        parts = [value.decode("latin-1")] if is_stored else map(str, _values(value))
        return all(DECIMALS.fullmatch(part) for part in parts)
    if representation in SIZES and multiplicity.isdecimal():
        count = len(value) / SIZES[representation] if is_stored else len(_values(value))
        return count in (0, int(multiplicity))
    return True


def _values(value: Any) -> list[Any]:
    return list(value) if hasattr(value, "append") else [value]
