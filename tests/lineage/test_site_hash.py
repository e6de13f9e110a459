"""Keyed hashes of sites and scanners."""

from __future__ import annotations

from pathlib import Path

from lineage import keys, site_hash


def test_spellings_in_other_case_or_spaces_have_one_hash(home: Path) -> None:
    assert home.is_dir()
    assert site_hash.hash_site("Alder  Hospital ") == site_hash.hash_site("alder hospital")
    assert len({site_hash.hash_site(name) for name in ("Alder", "Birch", "Alder Hospital")}) == 3


def test_a_site_and_a_scanner_of_one_name_differ_and_no_name_has_no_hash(home: Path) -> None:
    assert home.is_dir()
    assert site_hash.hash_site("Alder") != site_hash.hash_scanner("Alder")
    assert site_hash.hash_site("  ") == site_hash.hash_scanner("") == ""


def test_the_hash_depends_on_the_key_of_sources(home: Path) -> None:
    before = site_hash.hash_site("Alder")
    assert "Alder" not in before and len(before) == site_hash.DIGITS
    (home / "keys" / "source").unlink()
    keys.create()
    assert site_hash.hash_site("Alder") != before
