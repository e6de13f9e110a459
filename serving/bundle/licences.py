"""The licences of what a release carries: one text, from the metadata of the packages that its lock names."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

PIN = re.compile(r"(?m)^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)")
TEXTS = re.compile(r"(?i)(licen[cs]e|copying|notice|third.?party.?(notices|programs))[^/]*$")
UNSAID = "no licence is named in its metadata"


def text(lock: Path) -> str:
    """Every package of a lock file: name, version, licence, home page and the licence texts that came with it.

    A package that is not installed here (the lock serves several systems) stands in it by name and version.
    """
    parts = ["What this release is run with, and under which licences. Made from the packages' own metadata.\n"]
    parts += [_package(name, version) for name, version in PIN.findall(lock.read_text())]
    return f"\n{'=' * 79}\n".join(parts)


def _package(name: str, version: str) -> str:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return f"{name} {version}\nnot needed on the system where this release was built\n"
    if found.version != version:
        version = f"{version} (the texts below are of {found.version})"
    return "\n".join([f"{name} {version}", f"Licence: {licence(found)}", *_homes(found), "", *_texts(found)])


def licence(found: metadata.Distribution) -> str:
    """What a package says of its licence: an expression, else its classifiers, else the first line of a text."""
    classes = found.metadata.get_all("Classifier") or []
    classified = [one.rpartition(" :: ")[2] for one in classes if one.startswith("License ::")]
    first = _said(found, "License").strip().partition("\n")[0]
    return _said(found, "License-Expression") or ", ".join(classified) or first or UNSAID


def _said(found: metadata.Distribution, field: str) -> str:
    return str(found.metadata[field]) if field in found.metadata else ""


def _homes(found: metadata.Distribution) -> list[str]:
    pages = [_said(found, "Home-page"), *(found.metadata.get_all("Project-URL") or [])]
    named = [page.rpartition(", ")[2] for page in pages if page and page != "UNKNOWN"]
    return [f"Home: {named[0]}"] if named else []


def _texts(found: metadata.Distribution) -> list[str]:
    files = [file for file in found.files or [] if TEXTS.search(str(file)) and file.suffix not in (".py", ".pyc")]
    paths = [Path(str(file.locate())) for file in sorted(files, key=str)]
    return [path.read_text(encoding="utf-8", errors="replace").strip() + "\n" for path in paths if path.is_file()]
