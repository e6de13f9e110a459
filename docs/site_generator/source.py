"""The product's source files: packages, modules, docstrings, public functions. Read by syntax, never imported."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipelines", "desk", "training", "monitoring", "serving", "data", "lineage")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One Python file: its dotted name and its path."""

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree of the file."""
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @property
    def docstring(self) -> str:
        """The docstring of the file."""
        return ast.get_docstring(self.tree) or ""

    @property
    def public(self) -> list[Function | ast.ClassDef]:
        """The functions and classes of the file whose names do not begin with an underscore."""
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        return [node for node in self.tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def modules(package: str = "") -> list[Module]:
    """Every module of one package, or of all, in the order of their names; a package is the module of its own name."""
    names = [package] if package else list(PACKAGES)
    paths = sorted(path for name in names for path in (ROOT / name).rglob("*.py"))
    return sorted((Module(_dotted(path), path) for path in paths), key=lambda module: module.name)


def summary(docstring: str) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(docstring.strip().split("\n\n")[0].split())


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
