"""Reference: every kind of event of the ledger, from `EventKind`, and the calls that append one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from lineage.record.events import EventKind
from site_generator import markdown
from site_generator.package_pages import anchor
from site_generator.source import Function, Module, modules, summary

APPEND = "lineage.record.ledger.append"  # the function that writes; its first argument is the kind
KINDS = "lineage.record.events.EventKind."
INTRODUCTION = """# Ledger events

The ledger is a hash chain of events. Each event has a sequence number, a time (UTC), a kind, a subject, an actor and a
payload. This page lists every kind with its meaning and the functions that write it. In the tables of a kind, subject
and payload are shown as the code writes them. `oncoloop verify` checks the chain; the auditor's pages of the desk show
the events.
"""


@dataclass(frozen=True)
class Writing:
    """One call that appends an event: its kind, where it stands, and what it writes."""

    kind: EventKind
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
    """The page of all kinds, in the order of their names."""
    by_kind: dict[EventKind, list[Writing]] = {kind: [] for kind in sorted(EventKind)}
    for writing in writings()[0]:
        by_kind[writing.kind].append(writing)
    overview = [_line(*item) for item in by_kind.items()]
    parts = [INTRODUCTION, markdown.table(("kind", "subject", "payload", "written by"), overview)]
    for kind, kind_writings in by_kind.items():
        rows = [
            (
                f"[`{writing.module}.{writing.function}`]({_page_of(writing.module)})",
                markdown.text(writing.meaning),
                markdown.code(writing.subject),
                ", ".join(markdown.code(name) for name in writing.payload),
            )
            for writing in kind_writings
        ]
        heading = f"## {kind} {{ #{kind.replace('.', '-')} }}\n"
        meaning = f"Subject: {markdown.text(kind.subject)}. Payload: {markdown.text(kind.payload)}.\n"
        parts += [heading, meaning, markdown.table(("written by", "which does", "subject", "payload"), rows)]
    return "\n".join(parts)


def _line(kind: EventKind, kind_writings: list[Writing]) -> tuple[str, ...]:
    modules_of_kind = dict.fromkeys(f"`{writing.module}`" for writing in kind_writings)
    link = f"[`{kind}`](#{kind.replace('.', '-')})"
    return link, markdown.text(kind.subject), markdown.text(kind.payload), ", ".join(modules_of_kind)


def _page_of(module: str) -> str:
    return f"packages/{module.split('.')[0]}.md#{anchor(module)}"


def writings() -> tuple[list[Writing], list[str]]:
    """Every call that appends an event of a member of `EventKind`, and the places of calls with any other kind.

    A function that passes its own parameter on as the kind is a writer itself: its callers show the kind.
    """
    every = [call for module in modules() for call in _calls(module)]
    writers, fixed = {APPEND}, dict[str, EventKind]()
    by_place: dict[tuple[str, int], Writing] = {}
    hidden: list[str] = []
    waiting = [APPEND]
    while waiting:
        writer = waiting.pop()
        for call in (call for call in every if call.target == writer):
            own = f"{call.module.name}.{call.inside.name}" if call.inside else call.module.name
            node = _argument(call.node, 0, "kind")
            kinds = [fixed[writer]] if writer in fixed else _members(node, call.module)
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


def _writing(kind: EventKind, call: Call, has_fixed_kind: bool) -> Writing:
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


def _members(node: ast.expr | None, module: Module) -> list[EventKind]:
    """The members of `EventKind` that an expression may be; none for a literal and any other expression."""
    if isinstance(node, ast.IfExp):
        branches = [_members(node.body, module), _members(node.orelse, module)]
        return [*branches[0], *branches[1]] if all(branches) else []
    name = _dotted(node, _aliases(module), module) if node is not None else ""
    member = name.removeprefix(KINDS)
    return [EventKind[member]] if name.startswith(KINDS) and member in EventKind.__members__ else []
