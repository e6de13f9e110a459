"""Fingerprints are equal for equal content and different for different content."""

from __future__ import annotations

import hashlib
import json
import subprocess
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from lineage import fingerprint
from lineage.errors import Fault
from lineage.record.verdict import Outcome

ROOT = Path(__file__).resolve().parents[2]


def test_a_file_and_a_text_have_their_sha256(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("tumour")
    expected = hashlib.sha256(b"tumour").hexdigest()
    assert fingerprint.file_sha256(path) == fingerprint.text_sha256("tumour") == expected


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"gone\.dcm"):
        fingerprint.file_sha256(tmp_path / "gone.dcm")
    with pytest.raises(Fault, match="not a folder"):
        fingerprint.hash_folder(tmp_path / "gone")


def test_the_order_of_keys_does_not_matter() -> None:
    assert fingerprint.digest({"a": 1, "b": [1, 2]}) == fingerprint.digest({"b": (1, 2), "a": 1})
    assert fingerprint.digest({"a": [1, 2]}) != fingerprint.digest({"a": [2, 1]})
    assert fingerprint.digest({"a": 1}) != fingerprint.digest({"a": "1"})


def test_canonical_text_is_one_line_of_plain_json() -> None:
    value = {
        "figure": np.float32(0.5),
        "count": np.int64(3),
        "vector": np.arange(3),
        "when": date(2026, 1, 31),
        "where": Path("a/b"),
        "outcome": Outcome.PASS,
        "none": float("nan"),
        3: {"x", "a"},
        "text": "Übergröße\n",
    }
    text = fingerprint.canonical(value)
    assert "\n" not in text and " " not in text
    assert json.loads(text) == {
        "figure": 0.5,
        "count": 3,
        "vector": [0, 1, 2],
        "when": "2026-01-31",
        "where": "a/b",
        "outcome": "pass",
        "none": None,
        "3": ["a", "x"],
        "text": "Übergröße\n",
    }


def test_a_value_without_a_json_form_is_refused_with_its_type() -> None:
    with pytest.raises(Fault, match="bytes"):
        fingerprint.canonical({"scan": b"pixels"})


def test_the_hashes_of_a_folder_show_every_change(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    (tmp_path / "y").write_text("2")
    before = fingerprint.hash_folder(tmp_path)
    assert list(before) == ["a/x", "y"]
    (tmp_path / "a" / "x").write_text("3")
    after = fingerprint.hash_folder(tmp_path)
    assert [name for name in before if before[name] != after[name]] == ["a/x"]


def test_code_hashes_do_not_depend_on_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    code = fingerprint.describe_code(("lineage", "data"))
    assert code["files"]["lineage/record/ledger.py"] == fingerprint.file_sha256(ROOT / "lineage/record/ledger.py")
    assert "lineage/record/migrations/env.py" in code["files"]
    assert code["files"]["data/__init__.py"] == fingerprint.file_sha256(ROOT / "data" / "__init__.py")
    assert not any("__pycache__" in name or name.startswith("training") for name in code["files"])


def test_a_package_is_named_with_or_without_its_sub_packages() -> None:
    all_files, own_files = (set(fingerprint.describe_code((name,))["files"]) for name in ("data", "data/top-level"))
    assert own_files < all_files and "data/core_types.py" in own_files and "data/scan/read.py" in all_files - own_files
    assert set(fingerprint.describe_code(("data/scan",))["files"]) < all_files - own_files


def test_an_unknown_package_is_named() -> None:
    with pytest.raises(Fault, match="kitchen"):
        fingerprint.describe_code(("kitchen",))


def test_the_commit_is_the_one_checked_out(tmp_path: Path) -> None:
    clone, worktree = tmp_path / "clone", tmp_path / "tree"
    clone.mkdir()
    assert fingerprint._commit(clone) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=clone, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q", ".")
    git("commit", "-q", "--allow-empty", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert fingerprint._commit(clone) == commit
    git("worktree", "add", "-q", str(worktree))
    assert fingerprint._commit(worktree) == commit
    git("pack-refs", "--all")
    assert fingerprint._commit(clone) == commit == fingerprint._commit(worktree)
    git("checkout", "-q", commit)
    assert fingerprint._commit(clone) == commit
