"""Keys for each purpose, their file modes, and pseudonyms, date shifts and signatures made with them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from lineage import keys
from lineage.errors import Fault


def test_keys_are_readable_only_by_their_owner(home: Path) -> None:
    for purpose in keys.PURPOSES:
        assert stat.S_IMODE((home / "keys" / purpose).stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "keys").stat().st_mode) == 0o700


def test_every_purpose_has_a_different_key(home: Path) -> None:
    assert len({keys.key(purpose) for purpose in keys.PURPOSES}) == len(keys.PURPOSES)


def test_only_missing_keys_are_created(home: Path) -> None:
    before = {purpose: keys.key(purpose) for purpose in keys.PURPOSES}
    (home / "keys" / "scans").unlink()
    keys.create()
    after = {purpose: keys.key(purpose) for purpose in keys.PURPOSES}
    assert after["scans"] != before["scans"]
    assert {name for name in before if before[name] == after[name]} == set(keys.PURPOSES) - {"scans"}


def test_a_missing_or_damaged_key_says_what_to_do(home: Path) -> None:
    (home / "keys" / "signin").unlink()
    with pytest.raises(Fault, match="oncoloop init"):
        keys.key("signin")
    (home / "keys" / "scans").write_text("abc")
    with pytest.raises(Fault, match="not hexadecimal"):
        keys.key("scans")
    (home / "keys" / "scans").write_text("abcd")
    with pytest.raises(Fault, match="2 bytes"):
        keys.key("scans")
    with pytest.raises(Fault, match="pseudonym, signin"):
        keys.key("cellar")


def test_a_pseudonym_is_stable_and_reveals_no_identity(home: Path) -> None:
    name = keys.pseudonym("Meier^Anna")
    assert name == keys.pseudonym("Meier^Anna")
    assert len(name) == 13 and name[0] == "P" and int(name[1:], 16) >= 0
    assert len({keys.pseudonym(str(number)) for number in range(1000)}) == 1000


def test_another_installation_gives_other_pseudonyms(home: Path) -> None:
    name = keys.pseudonym("Meier^Anna")
    (home / "keys" / "pseudonym").unlink()
    keys.create()
    assert keys.pseudonym("Meier^Anna") != name


def test_date_shifts_are_at_most_a_year_and_stable(home: Path) -> None:
    shifts = {name: keys.day_shift(str(name)) for name in range(10_000)}  # both ends occur except in one of 10^12 runs
    assert min(shifts.values()) == -365 and max(shifts.values()) == -1
    assert all(keys.day_shift(str(name)) == shift for name, shift in shifts.items())


def test_a_signature_is_valid_only_for_its_text(home: Path) -> None:
    signature = keys.sign(b"approve lung-ct/3")
    assert keys.verify_signature(b"approve lung-ct/3", signature)
    assert not keys.verify_signature(b"approve lung-ct/4", signature)
    assert not keys.verify_signature(b"approve lung-ct/3", "é" * 64)
