"""Single-point mutants of a Python source: what bench/mutate.py runs the tests against.

Not mutated, since no behaviour depends on it: docstrings, annotations, imports, decorators, `__all__`, logging,
the words of messages (f-strings and strings of more than two words), names of fields (string keys and subscripts:
a wrong one fails at once), `strict=` of zip, and encodings.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
SWAPS = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum"}
EMPTY = {"str": '""', "int": "0", "float": "0.0", "list": "[]", "dict": "{}", "tuple": "()", "set": "set()"}
LOGGERS = {"log", "logger", "logging", "warnings"}


@dataclass(frozen=True)
class Mutant:
    """One change of a source: the byte span that is replaced, its new text, and the changed lines before and after."""

    start: int
    end: int
    text: str
    line: int
    old: str
    new: str


def mutants(source: str) -> list[Mutant]:
    """Every single-point mutant of a module, in the order of the source."""
    raw = source.encode()
    starts = [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = {}
    for start, end, text in _Sites(raw, starts).changes(ast.parse(source)):
        mutant = of_span(source, start, end, text)
        if mutant.old != mutant.new and _compiles(apply(source, mutant)):
            found[mutant.start, mutant.end, mutant.text] = mutant
    return sorted(found.values(), key=lambda mutant: (mutant.start, mutant.end, mutant.text))


def of_span(source: str, start: int, end: int, text: str) -> Mutant:
    """The mutant that replaces the bytes from `start` to `end` by `text`."""
    raw = source.encode()
    first = raw.rfind(b"\n", 0, start) + 1
    last = raw.find(b"\n", end)
    last = len(raw) if last < 0 else last
    old = _flat(raw[first:last].decode())
    new = _flat((raw[first:start] + text.encode() + raw[end:last]).decode())
    return Mutant(start, end, text, raw.count(b"\n", 0, start) + 1, old, new)


def apply(source: str, mutant: Mutant) -> str:
    """The source with one change."""
    raw = source.encode()
    return (raw[: mutant.start] + mutant.text.encode() + raw[mutant.end :]).decode()


def _flat(text: str) -> str:
    return " ".join(text.split())


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


class _Sites:
    """Walks a tree and yields (start, end, new text) for every change."""

    def __init__(self, raw: bytes, starts: list[int]) -> None:
        self.raw, self.starts = raw, starts

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, start: int, end: int) -> str:
        return self.raw[start:end].decode()

    def changes(self, node: ast.AST, returns: str | None = None) -> Iterator[tuple[int, int, str]]:
        """The changes of a node and of all below it; `returns` is the annotation of the function around it."""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            returns = ast.unparse(node.returns) if node.returns else None
            defaults = [default for default in (*node.args.defaults, *node.args.kw_defaults) if default is not None]
            for child in (*defaults, *_without_docstring(node.body)):
                yield from self.changes(child, returns)
            return
        if isinstance(node, ast.ClassDef | ast.Module):
            for child in _without_docstring(node.body):
                yield from self.changes(child)
            return
        if isinstance(node, ast.Import | ast.ImportFrom) or _is_all(node) or _is_log(node):
            return
        yield from self._own(node, returns)
        for child in self._children(node):
            yield from self.changes(child, returns)

    def _children(self, node: ast.AST) -> Iterator[ast.AST]:
        """What below a node is behaviour."""
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "format_spec"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant):
                    continue
                if name in ("keys", "slice") and isinstance(child, ast.AST) and _is_field(child):
                    continue
                if isinstance(child, ast.keyword) and child.arg in ("strict", "encoding"):
                    continue
                if isinstance(child, ast.AST):
                    yield child

    def _own(self, node: ast.AST, returns: str | None) -> Iterator[tuple[int, int, str]]:
        if isinstance(node, ast.Compare):
            yield from self._comparisons(node)
        elif isinstance(node, ast.BoolOp):
            word, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from self._between(left, right, word, other)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield *self._span(node), f"({self._text(*self._span(node.operand))})"
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            yield from self._between(node.left, node.right, *ARITHMETIC[type(node.op)])
        elif isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
            word, other = ARITHMETIC[type(node.op)]
            yield from self._between(node.target, node.value, f"{word}=", f"{other}=")
            yield *self._span(node), "pass"
        elif isinstance(node, ast.Constant):
            yield from ((*self._span(node), text) for text in _constants(node.value))
        elif isinstance(node, ast.If | ast.IfExp):
            yield *self._span(node.test), "False"
            if isinstance(node, ast.IfExp):
                yield *self._span(node.test), "True"
        elif isinstance(node, ast.comprehension):
            yield from ((*self._span(test), "True") for test in node.ifs)
        elif isinstance(node, ast.Raise | ast.Continue | ast.Break) or _is_call(node):
            yield *self._span(node), "pass"
        elif isinstance(node, ast.Return) and node.value is not None:
            yield from self._returns(node.value, returns)
        elif isinstance(node, ast.Call):
            yield from self._arguments(node)
        elif isinstance(node, ast.Slice):
            for bound in (node.lower, node.upper):
                if bound is not None:
                    yield *self._span(bound), ""
        elif isinstance(node, ast.Name) and node.id in SWAPS:
            yield *self._span(node), SWAPS[node.id]
        elif isinstance(node, ast.Attribute) and node.attr in SWAPS:
            end = self._span(node)[1]
            yield end - len(node.attr), end, SWAPS[node.attr]

    def _between(self, left: ast.AST, right: ast.AST, word: str, other: str) -> Iterator[tuple[int, int, str]]:
        """Another operator between two operands, whatever brackets stand around them."""
        start, end = self._span(left)[1], self._span(right)[0]
        pattern = r"\s+".join(map(re.escape, word.split()))
        if found := re.search(pattern, self._text(start, end)):
            yield start + found.start(), start + found.end(), other

    def _comparisons(self, node: ast.Compare) -> Iterator[tuple[int, int, str]]:
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            word, others = COMPARISONS[type(operator)]
            for other in others:
                yield from self._between(left, right, word, other)
            left = right

    def _returns(self, value: ast.expr, returns: str | None) -> Iterator[tuple[int, int, str]]:
        span = self._span(value)
        if returns == "bool":
            yield *span, f"not ({self._text(*span)})"
            return
        empty = EMPTY.get((returns or "").split("[")[0].strip(), "None")
        if self._text(*span) != empty:
            yield *span, empty

    def _arguments(self, node: ast.Call) -> Iterator[tuple[int, int, str]]:
        """One argument fewer: each keyword, and the last by position where there are several."""
        every = [*node.args, *node.keywords]
        if len(every) < 2:
            return
        ordered = sorted(every, key=lambda argument: self._span(argument)[0])
        for place, argument in enumerate(ordered):
            if isinstance(argument, ast.keyword) and argument.arg in ("strict", "encoding", None):
                continue
            if isinstance(argument, ast.Starred) or argument in node.args[:-1]:
                continue
            start, end = self._span(argument)
            if place:
                yield self._span(ordered[place - 1])[1], end, ""
            else:
                yield start, self._span(ordered[1])[0], ""


def _constants(value: object) -> list[str]:
    if isinstance(value, bool):
        return [str(not value)]
    if isinstance(value, int | float):
        return [repr(value + 1)] + ([] if value in (0, -1) else ["0"])
    if isinstance(value, str) and len(value.split()) <= 2:
        return ['"other"'] if not value else ['""']
    if isinstance(value, bytes):
        return ['b"other"'] if not value else ['b""']
    return []


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    return [node for node in body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]


def _is_field(node: ast.AST) -> bool:
    """A string, or a list of strings."""
    if isinstance(node, ast.List | ast.Tuple):
        return all(map(_is_field, node.elts))
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _is_all(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


def _is_log(node: ast.AST) -> bool:
    """A statement that calls a logger."""
    return _is_call(node) and ast.unparse(node.value.func).split(".")[0].lower() in LOGGERS  # type: ignore[attr-defined]
