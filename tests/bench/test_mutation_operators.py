"""Mutation testing: which changes of a source are made, which are not, and whether the listed files exist."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def mutation_operators() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "mutation_operators", ROOT / "bench" / "mutation" / "mutation_operators.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutation_operators"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("x = (a) < b", {"x = (a) <= b", "x = (a) >= b"}),
        ("x = a not in b", {"x = a in b"}),
        ("x = a and b", {"x = a or b"}),
        ("x = not a", {"x = (a)"}),
        ("x = a + (b)", {"x = a - (b)"}),
        ("x = 3", {"x = 4", "x = 0"}),
        ("x = True", {"x = False"}),
        ("x = 'a'", {'x = ""'}),
        ("f(a)", {"pass"}),
        ("x = min(a)", {"x = max(a)"}),
        ("x = f(a, b, c=d)", {"x = f(a, c=d)", "x = f(a, b)"}),
        ("x = a[b:c]", {"x = a[:c]", "x = a[b:]"}),
        ("x = [a for a in b if c]", {"x = [a for a in b if True]"}),
        ("x += a", {"x -= a", "pass"}),
        ("x = 'é' if a else b", {'x = "" if a else b', "x = 'é' if False else b", "x = 'é' if True else b"}),
    ],
)
def test_every_kind_of_mutation(mutation_operators: ModuleType, line: str, changed: set[str]) -> None:
    source = f"y: int\n{line}\n"
    all_mutants = mutation_operators.all_mutants(source)
    assert {mutant.new for mutant in all_mutants} == changed
    assert {mutation_operators.apply(source, mutant) for mutant in all_mutants} == {
        f"y: int\n{new}\n" for new in changed
    }


def test_guards_and_returned_values_are_mutated(mutation_operators: ModuleType) -> None:
    source = "def f(a) -> bool:\n    if a:\n        raise b\n    return a\n"
    assert {mutant.new for mutant in mutation_operators.all_mutants(source)} == {"if False:", "pass", "return not (a)"}


def test_docstrings_annotations_messages_and_field_names_are_not_mutated(mutation_operators: ModuleType) -> None:
    source = '"""What."""\nimport a\n__all__ = ["a"]\n\n\n@a(b=1)\ndef f(c: "int | None") -> None:\n    """What."""\n'
    source += '    a.b = f"x {c:.2f} y", "three words long", c["key"], {"key": c}, zip(*c, strict=True)\n'
    assert not mutation_operators.all_mutants(source)


def test_the_list_contains_existing_modules_and_tests() -> None:
    modules = tomllib.loads((ROOT / "bench" / "mutation" / "mutants.toml").read_text(encoding="utf-8"))
    paths = [path for module, entry in modules.items() for path in (module, *entry["tests"])]
    assert len(modules) > 15
    assert not [path for path in paths if not (ROOT / path).is_file()]
