"""bench/mutate.py: what it changes in a source, what it leaves alone, and that its list names files that exist."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "bench" / "mutants.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
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
def test_each_kind_of_change(mutants: ModuleType, line: str, changed: set[str]) -> None:
    source = f"y: int\n{line}\n"
    every = mutants.mutants(source)
    assert {mutant.new for mutant in every} == changed
    assert {mutants.apply(source, mutant) for mutant in every} == {f"y: int\n{new}\n" for new in changed}


def test_guards_go_and_returned_values_change(mutants: ModuleType) -> None:
    source = "def f(a) -> bool:\n    if a:\n        raise b\n    return a\n"
    assert {mutant.new for mutant in mutants.mutants(source)} == {"if False:", "pass", "return not (a)"}


def test_words_annotations_and_names_of_fields_stay(mutants: ModuleType) -> None:
    source = '"""What."""\nimport a\n__all__ = ["a"]\n\n\n@a(b=1)\ndef f(c: "int | None") -> None:\n    """What."""\n'
    source += '    a.b = f"x {c:.2f} y", "three words long", c["key"], {"key": c}, zip(*c, strict=True)\n'
    assert not mutants.mutants(source)


def test_the_list_names_modules_and_tests_that_exist() -> None:
    listed = tomllib.loads((ROOT / "bench" / "mutants.toml").read_text(encoding="utf-8"))
    named = [path for module, told in listed.items() for path in (module, *told["tests"])]
    assert len(listed) > 15
    assert not [path for path in named if not (ROOT / path).is_file()]
