"""SHA-256 of files, texts, values and the installed code."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lineage.errors import Fault

ROOT = Path(__file__).resolve().parent.parent
CODE = (".py", ".lock")
TOP_LEVEL = "/top-level"  # suffix for the files of a package without its sub-packages


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hex."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise Fault(
            f"{path} can't be read ({error.strerror}); check that it exists and that you may read it"
        ) from error


def text_sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8, in lower-case hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def json_value(value: Any) -> Any:
    """The value in JSON types. NaN and infinity become null, since JSON has neither."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(json_value(item) for item in value)
    if isinstance(value, Path | date):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, pandas columns
        return json_value(value.tolist())
    raise Fault(f"a value of type {type(value).__name__} can't be written to the record: {value!r:.80}")


def canonical(value: Any) -> str:
    """The canonical JSON text of a value: sorted keys, no spaces, UTF-8. Equal values have equal texts."""
    return json.dumps(json_value(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical text."""
    return text_sha256(canonical(value))


def hash_folder(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path relative to the folder (with forward slashes)."""
    if not folder.is_dir():
        raise Fault(f"{folder} is not a folder; check the path")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def describe_code(packages: tuple[str, ...]) -> dict[str, Any]:
    """The installed code: `files` with their SHA-256, the product's `version`, and its `commit` if there is one.

    A package is named by its folder: "data/scan" with its sub-packages, "data/top-level" without them. It is looked up
    next to this package, so that a workspace's own `data/` folder cannot shadow it. Fault if one is missing.
    """
    paths = {path for package in packages for path in sources(package)}
    files = {path.relative_to(ROOT).as_posix(): file_sha256(path) for path in sorted(paths)}
    return {"files": files, "version": _version(), "commit": _commit(ROOT)}


def sources(package: str, suffixes: tuple[str, ...] = CODE) -> list[Path]:
    """The files of a package with one of these suffixes; only folders that are packages are searched."""
    folder = ROOT / package.removesuffix(TOP_LEVEL)
    if not (folder / "__init__.py").is_file():
        raise Fault(f"there is no package {package!r} in {ROOT}; the installation is damaged, install it again")
    folders = (
        [folder]
        if package.endswith(TOP_LEVEL)
        else [folder, *(path.parent for path in folder.glob("*/**/__init__.py"))]
    )
    return sorted(path for folder in folders for path in folder.iterdir() if path.suffix in suffixes)


def _version() -> str:
    try:
        return version("oncoloop")
    except PackageNotFoundError:  # a release contains copies of the packages
        return "unknown"


def _commit(root: Path) -> str | None:
    """The commit that is checked out at `root`, read from git's files; None if it is not a clone."""
    git = root / ".git"
    if git.is_file():  # a worktree
        git = root / git.read_text().removeprefix("gitdir:").strip()
    head = git / "HEAD"
    if not head.is_file():
        return None
    reference = head.read_text().strip()
    if not reference.startswith("ref:"):
        return reference
    name = reference.removeprefix("ref:").strip()
    common_folder = git / "commondir"
    shared = (git / common_folder.read_text().strip()) if common_folder.is_file() else git
    for folder in (git, shared):
        if (folder / name).is_file():
            return (folder / name).read_text().strip()
    packed = shared / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), None)


def hash_pseudonym(pseudonym: str) -> str:
    """The hash that journal and ledger store in place of a patient's pseudonym, equal for all rows of one patient.

    It is the SHA-256 of "withdrawn " and the pseudonym, and not reversible.
    """
    return text_sha256(f"withdrawn {pseudonym}")
