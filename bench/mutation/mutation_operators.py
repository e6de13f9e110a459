"""Single-point mutants of a Python source.

Not mutated, since no behaviour depends on it: docstrings, annotations, imports, decorators, `__all__`, logging,
message texts (f-strings and strings of more than two words), field names (string keys and subscripts: a wrong one fails
at once), `strict=` of zip, and encodings.
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
    """One change of a source: the replaced byte span, its new text, and the changed lines before and after."""

    start: int
    end: int
    text: str
    line: int
    old: str
    new: str


def all_mutants(source: str) -> list[Mutant]:
    """Every single-point mutant of a source, in source order."""
    source_bytes = source.encode()
    line_starts = [0]
    for line in source_bytes.splitlines(keepends=True):
        line_starts.append(line_starts[-1] + len(line))
    by_span = {}
    for start, end, text in _Sites(source_bytes, line_starts).changes(ast.parse(source)):
        mutant = of_span(source, start, end, text)
        if mutant.old != mutant.new and _compiles(apply(source, mutant)):
            by_span[mutant.start, mutant.end, mutant.text] = mutant
    return sorted(by_span.values(), key=lambda mutant: (mutant.start, mutant.end, mutant.text))


def of_span(source: str, start: int, end: int, text: str) -> Mutant:
    """The mutant that replaces the bytes from `start` to `end` by `text`."""
    source_bytes = source.encode()
    line_start = source_bytes.rfind(b"\n", 0, start) + 1
    line_end = source_bytes.find(b"\n", end)
    line_end = len(source_bytes) if line_end < 0 else line_end
    old = _flat(source_bytes[line_start:line_end].decode())
    new = _flat((source_bytes[line_start:start] + text.encode() + source_bytes[end:line_end]).decode())
    return Mutant(start, end, text, source_bytes.count(b"\n", 0, start) + 1, old, new)


def apply(source: str, mutant: Mutant) -> str:
    """The source with one change."""
    source_bytes = source.encode()
    return (source_bytes[: mutant.start] + mutant.text.encode() + source_bytes[mutant.end :]).decode()


def _flat(text: str) -> str:
    return " ".join(text.split())


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


class _Sites:
    """Walks a syntax tree and yields (start, end, new text) for every change."""

    def __init__(self, source_bytes: bytes, line_starts: list[int]) -> None:
        self.source_bytes, self.line_starts = source_bytes, line_starts

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self.line_starts[node.lineno - 1] + node.col_offset
        return start, self.line_starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, start: int, end: int) -> str:
        return self.source_bytes[start:end].decode()

    def changes(self, node: ast.AST, returns: str | None = None) -> Iterator[tuple[int, int, str]]:
        """The changes of a node and its descendants; `returns` is the annotation of the enclosing function."""
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
        """The child nodes whose changes can alter behaviour."""
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
            operator, replacement = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left_operand, right_operand in zip(node.values, node.values[1:], strict=False):
                yield from self._between(left_operand, right_operand, operator, replacement)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield *self._span(node), f"({self._text(*self._span(node.operand))})"
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            yield from self._between(node.left, node.right, *ARITHMETIC[type(node.op)])
        elif isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
            operator, replacement = ARITHMETIC[type(node.op)]
            yield from self._between(node.target, node.value, f"{operator}=", f"{replacement}=")
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

    def _between(
        self, left_operand: ast.AST, right_operand: ast.AST, operator: str, replacement: str
    ) -> Iterator[tuple[int, int, str]]:
        """Replace the operator between two operands, also if they are in brackets."""
        start, end = self._span(left_operand)[1], self._span(right_operand)[0]
        pattern = r"\s+".join(map(re.escape, operator.split()))
        if match := re.search(pattern, self._text(start, end)):
            yield start + match.start(), start + match.end(), replacement

    def _comparisons(self, node: ast.Compare) -> Iterator[tuple[int, int, str]]:
        left_operand = node.left
        for operator_node, right_operand in zip(node.ops, node.comparators, strict=True):
            operator, replacements = COMPARISONS[type(operator_node)]
            for replacement in replacements:
                yield from self._between(left_operand, right_operand, operator, replacement)
            left_operand = right_operand

    def _returns(self, value: ast.expr, returns: str | None) -> Iterator[tuple[int, int, str]]:
        span = self._span(value)
        if returns == "bool":
            yield *span, f"not ({self._text(*span)})"
            return
        empty = EMPTY.get((returns or "").split("[")[0].strip(), "None")
        if self._text(*span) != empty:
            yield *span, empty

    def _arguments(self, node: ast.Call) -> Iterator[tuple[int, int, str]]:
        """Remove one argument: each keyword, and the last positional one if there are several arguments."""
        arguments = [*node.args, *node.keywords]
        if len(arguments) < 2:
            return
        ordered = sorted(arguments, key=lambda argument: self._span(argument)[0])
        for position, argument in enumerate(ordered):
            if isinstance(argument, ast.keyword) and argument.arg in ("strict", "encoding", None):
                continue
            if isinstance(argument, ast.Starred) or argument in node.args[:-1]:
                continue
            start, end = self._span(argument)
            if position:
                yield self._span(ordered[position - 1])[1], end, ""
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
    """Whether a node is a string, or a list or tuple of strings."""
    if isinstance(node, ast.List | ast.Tuple):
        return all(map(_is_field, node.elts))
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _is_all(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


def _is_log(node: ast.AST) -> bool:
    """Whether a statement calls a logger."""
    return _is_call(node) and ast.unparse(node.value.func).split(".")[0].lower() in LOGGERS  # type: ignore[attr-defined]
