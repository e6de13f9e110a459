"""Reference: one page for each package, with its modules and their public functions and classes."""

from __future__ import annotations

import ast

from site_generator import markdown
from site_generator.source import PACKAGES, Module, modules, summary


def pages() -> dict[str, str]:
    """The pages of all packages, by path."""
    return {f"reference/packages/{package}.md": page(package) for package in PACKAGES}


def page(package: str) -> str:
    """The page of one package: its sub-packages in order, each with its modules."""
    parts = []
    for module in modules(package):
        parts.append(_package(module) if module.path.stem == "__init__" else _module(module))
    return "\n".join(parts)


def _package(module: Module) -> str:
    level = "#" if "." not in module.name else "##"
    inside = [other for other in modules(module.name.split(".")[0]) if other.name.rpartition(".")[0] == module.name]
    rows = [(_link(other), markdown.text(summary(other.docstring))) for other in inside]
    listed = markdown.table(("module", "what is in it"), rows) if rows else ""
    return f"{level} {module.name} {{ #{anchor(module.name)} }}\n\n{markdown.text(module.docstring)}\n\n{listed}"


def _module(module: Module) -> str:
    paragraphs = [markdown.text(part) for part in module.docstring.split("\n\n")]
    rows = [(markdown.code(_signature(node)), markdown.text(_meaning(node))) for node in module.public]
    listed = markdown.table(("function or class", "meaning"), rows) if rows else ""
    head = f"### {module.name} {{ #{anchor(module.name)} }}"
    return "\n\n".join([head, *paragraphs, listed])


def anchor(name: str) -> str:
    """The anchor of a module on its page."""
    return name.replace(".", "-")


def _link(module: Module) -> str:
    return f"[`{module.name.rpartition('.')[2]}`](#{anchor(module.name)})"


def _signature(node: ast.AST) -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}"
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    arguments = node.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return f"{node.name}({', '.join(name for name in names if name != 'self')})"


def _meaning(node: ast.AST) -> str:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    return summary(ast.get_docstring(node) or "")
