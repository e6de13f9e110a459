"""Keyed hashes of sites and scanners."""

from __future__ import annotations

from pathlib import Path

from lineage import keys, source_hash


def test_spellings_in_other_case_or_spaces_have_one_hash(home: Path) -> None:
    assert home.is_dir()
    assert source_hash.site_hash("Alder  Hospital ") == source_hash.site_hash("alder hospital")
    assert len({source_hash.site_hash(name) for name in ("Alder", "Birch", "Alder Hospital")}) == 3


def test_a_site_and_a_scanner_of_one_name_differ_and_no_name_has_no_hash(home: Path) -> None:
    assert home.is_dir()
    assert source_hash.site_hash("Alder") != source_hash.scanner_hash("Alder")
    assert source_hash.site_hash("  ") == source_hash.scanner_hash("") == ""


def test_the_hash_depends_on_the_key_of_sources(home: Path) -> None:
    before = source_hash.site_hash("Alder")
    assert "Alder" not in before and len(before) == source_hash.DIGITS
    (home / "keys" / "source").unlink()
    keys.create()
    assert source_hash.site_hash("Alder") != before
