"""The licences of a release's packages: one text from the metadata of the packages in its lock."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

PIN = re.compile(r"(?m)^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)")
LICENCE_FILES = re.compile(r"(?i)(licen[cs]e|copying|notice|third.?party.?(notices|programs))[^/]*$")
UNKNOWN_LICENCE = "no licence is named in its metadata"


def text(lock: Path) -> str:
    """Every package of a lock file: name, version, licence, home page and the licence texts that came with it.

    A package that is not installed here (the lock covers several systems) is listed by name and version.
    """
    parts = ["The packages that this release runs with, and their licences, from the packages' own metadata.\n"]
    parts += [_package(name, version) for name, version in PIN.findall(lock.read_text())]
    return f"\n{'=' * 79}\n".join(parts)


def _package(name: str, version: str) -> str:
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return f"{name} {version}\nnot needed on the system where this release was built\n"
    if distribution.version != version:
        version = f"{version} (the texts below are from {distribution.version})"
    lines = [f"{name} {version}", f"Licence: {licence(distribution)}", *_home_page(distribution), ""]
    return "\n".join([*lines, *_licence_texts(distribution)])


def licence(distribution: metadata.Distribution) -> str:
    """A package's licence: its expression, else its classifiers, else the first line of its licence field."""
    classifiers = distribution.metadata.get_all("Classifier") or []
    licences = [name.rpartition(" :: ")[2] for name in classifiers if name.startswith("License ::")]
    first_line = _field(distribution, "License").strip().partition("\n")[0]
    return _field(distribution, "License-Expression") or ", ".join(licences) or first_line or UNKNOWN_LICENCE


def _field(distribution: metadata.Distribution, name: str) -> str:
    return str(distribution.metadata[name]) if name in distribution.metadata else ""


def _home_page(distribution: metadata.Distribution) -> list[str]:
    pages = [_field(distribution, "Home-page"), *(distribution.metadata.get_all("Project-URL") or [])]
    addresses = [page.rpartition(", ")[2] for page in pages if page and page != "UNKNOWN"]
    return [f"Home: {addresses[0]}"] if addresses else []


def _licence_texts(distribution: metadata.Distribution) -> list[str]:
    listed = distribution.files or []
    files = [file for file in listed if LICENCE_FILES.search(str(file)) and file.suffix not in (".py", ".pyc")]
    paths = [Path(str(file.locate())) for file in sorted(files, key=str)]
    return [path.read_text(encoding="utf-8", errors="replace").strip() + "\n" for path in paths if path.is_file()]
