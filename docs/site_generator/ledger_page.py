"""Reference: every kind of event of the ledger, collected from the calls that append one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from site_generator import markdown
from site_generator.package_pages import anchor
from site_generator.source import Function, Module, modules, summary

APPEND = "lineage.record.ledger.append"  # the function that writes; its first argument is the kind
INTRODUCTION = """# Ledger events

The ledger is a hash chain of events. Each event has a sequence number, a time (UTC), a kind, a subject, an actor and a
payload. This page lists every kind and the functions that write it. Subject and payload are shown as the code writes
them. `oncoloop verify` checks the chain; the auditor's pages of the desk show the events.
"""


@dataclass(frozen=True)
class Writing:
    """One call that appends an event: its kind, where it stands, and what it writes."""

    kind: str
    module: str
    function: str
    meaning: str
    subject: str
    payload: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """A call of a function, by the dotted name of its target, inside a function of a module."""

    module: Module
    inside: Function | None
    target: str
    node: ast.Call


def page() -> str:
    """The page of all kinds."""
    by_kind: dict[str, list[Writing]] = {}
    for writing in writings()[0]:
        by_kind.setdefault(writing.kind, []).append(writing)
    parts = [INTRODUCTION, markdown.table(("kind", "written by"), [_line(*item) for item in sorted(by_kind.items())])]
    for kind, kind_writings in sorted(by_kind.items()):
        rows = [
            (
                f"[`{one.module}.{one.function}`](packages/{one.module.split('.')[0]}.md#{anchor(one.module)})",
                markdown.text(one.meaning),
                markdown.code(one.subject),
                ", ".join(markdown.code(name) for name in one.payload),
            )
            for one in kind_writings
        ]
        heading = f"## {kind} {{ #{kind.replace('.', '-')} }}\n"
        parts += [heading, markdown.table(("written by", "which does", "subject", "payload"), rows)]
    return "\n".join(parts)


def _line(kind: str, kind_writings: list[Writing]) -> tuple[str, str]:
    places = dict.fromkeys(f"`{one.module}`" for one in kind_writings)
    return f"[`{kind}`](#{kind.replace('.', '-')})", ", ".join(places)


def writings() -> tuple[list[Writing], list[str]]:
    """Every call that appends an event with a kind that the source shows, and the places of calls that hide theirs.

    A function that passes its own parameter on as the kind is a writer itself: its callers show the kind.
    """
    every = [call for module in modules() for call in _calls(module)]
    modules_by_name = {module.name: module for module in modules()}
    writers, fixed = {APPEND}, dict[str, str]()
    by_place: dict[tuple[str, int], Writing] = {}
    hidden: list[str] = []
    waiting = [APPEND]
    while waiting:
        writer = waiting.pop()
        for call in (call for call in every if call.target == writer):
            own = f"{call.module.name}.{call.inside.name}" if call.inside else call.module.name
            node = _argument(call.node, 0, "kind")
            kinds = [fixed[writer]] if writer in fixed else _strings(node, call.module, modules_by_name)
            if not kinds and _is_parameter(node, call.inside):
                if own not in writers:
                    writers.add(own)
                    waiting.append(own)
            elif not kinds:
                hidden.append(f"{call.module.name}:{call.node.lineno}")
            elif call.module.name == APPEND.rpartition(".")[0] and own not in writers:
                writers.add(own)
                fixed[own] = kinds[0]
                waiting.append(own)
            else:
                for kind in kinds:
                    by_place[call.module.name, call.node.lineno] = _writing(kind, call, writer in fixed)
    return sorted(by_place.values(), key=lambda one: (one.kind, one.module, one.function)), hidden


def _writing(kind: str, call: Call, has_fixed_kind: bool) -> Writing:
    subject = None if has_fixed_kind else _argument(call.node, 1, "subject")
    payload = None if has_fixed_kind else _argument(call.node, 2, "payload")
    pairs = payload.keys if isinstance(payload, ast.Dict) else []
    names = [key.value for key in pairs if isinstance(key, ast.Constant)]
    if has_fixed_kind:
        names = [keyword.arg for keyword in call.node.keywords if keyword.arg not in (None, "actor")]
    return Writing(
        kind,
        call.module.name,
        call.inside.name if call.inside else "",
        summary((ast.get_docstring(call.inside) if call.inside else "") or call.module.docstring),
        ast.unparse(subject) if subject is not None else "",
        tuple(str(name) for name in names),
    )


def _calls(module: Module) -> Iterator[Call]:
    aliases = _aliases(module)

    def walk(node: ast.AST, inside: Function | None) -> Iterator[Call]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call) and (target := _dotted(child.func, aliases, module)):
                yield Call(module, inside, target, child)
            enters = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and inside is None
            yield from walk(child, child if enters else inside)  # type: ignore[arg-type]

    yield from walk(module.tree, None)


def _aliases(module: Module) -> dict[str, str]:
    """What each imported name of a module stands for."""
    names: dict[str, str] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _dotted(node: ast.AST, aliases: dict[str, str], module: Module) -> str:
    if isinstance(node, ast.Name):
        return aliases.get(node.id, f"{module.name}.{node.id}")
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value, aliases, module)
        return f"{before}.{node.attr}" if before else ""
    return ""


def _argument(call: ast.Call, place: int, name: str) -> ast.expr | None:
    if len(call.args) > place:
        return call.args[place]
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _is_parameter(node: ast.expr | None, inside: Function | None) -> bool:
    return isinstance(node, ast.Name) and inside is not None and node.id in {one.arg for one in inside.args.args}


def _strings(node: ast.expr | None, module: Module, modules_by_name: dict[str, Module]) -> list[str]:
    """The strings that an expression may be: a literal, a constant of a module, a member of an enumeration."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return _strings(node.body, module, modules_by_name) + _strings(node.orelse, module, modules_by_name)
    if isinstance(node, ast.Attribute) and node.attr == "value":
        return _strings(node.value, module, modules_by_name)
    if node is None or not (name := _dotted(node, _aliases(module), module)):
        return []
    owner, _, attribute = name.rpartition(".")
    if owner in modules_by_name:
        return _constant(modules_by_name[owner].tree.body, attribute, modules_by_name[owner], modules_by_name)
    owner, _, class_name = owner.rpartition(".")
    classes = (
        [one for one in modules_by_name[owner].tree.body if isinstance(one, ast.ClassDef)]
        if owner in modules_by_name
        else []
    )
    bodies = [one.body for one in classes if one.name == class_name]
    return _constant(bodies[0], attribute, modules_by_name[owner], modules_by_name) if bodies else []


def _constant(body: list[ast.stmt], name: str, module: Module, modules_by_name: dict[str, Module]) -> list[str]:
    for node in body:
        for target, value in _assigned(node):
            if isinstance(target, ast.Name) and target.id == name:
                return _strings(value, module, modules_by_name)
    return []


def _assigned(node: ast.stmt) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """What a statement assigns to what; a tuple is taken apart."""
    if isinstance(node, ast.AnnAssign):
        yield node.target, node.value
    for target in node.targets if isinstance(node, ast.Assign) else ():
        assert isinstance(node, ast.Assign)
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=False)
        else:
            yield target, node.value
