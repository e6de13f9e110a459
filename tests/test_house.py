"""What guards the house: import directions, vendor doors, plain words, files that a person can read in one go."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("lineage", "data", "serving", "training", "monitoring", "desk", "pipelines")
LEVEL = {"lineage": 0, "data": 1, "serving": 2, "training": 3, "monitoring": 3, "pipelines": 4, "desk": 4}
NETWORKS = {
    f"training/{name}.py"
    for name in ("augment", "batchnorm", "blocks", "devices", "export", "fit", "learner", "model", "visit")
}
DOORS = {
    "prefect": {
        f"pipelines/{name}.py" for name in ("ingest", "retrain", "elsewhere", "watch", "schedule", "scheduled", "page")
    },
    "dvc": {"pipelines/repro.py"},
    "great_expectations": {"data/suite.py"},
    **dict.fromkeys(("keras", "tensorflow", "jax"), NETWORKS),
    "mlflow": {"training/track.py", "lineage/registry.py"},
    "bentoml": {"serving/service.py", "serving/bundle.py"},
    "evidently": {"monitoring/drift.py"},
    "openvino": {"serving/graph.py"},
    "onnxruntime": {"serving/graph.py"},
    "sqlalchemy": {"lineage/store.py"},
    "faiss": {"data/neighbours.py"},
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}


def sources() -> list[Path]:
    """Every Python file of the rooms."""
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_only(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / room).rglob("*.py")
        for name in imports(path)
        if (other := name.split(".")[0]) in LEVEL and other != room and LEVEL[other] >= LEVEL[room]
    ]
    assert not wrong


@pytest.mark.parametrize("vendor", DOORS)
def test_every_vendor_has_its_door(vendor: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in sources()
        if "migrations" not in path.parts and any(name.split(".")[0] == vendor for name in imports(path))
    }
    assert users <= DOORS[vendor]


def test_the_doors_are_used() -> None:
    found = {name.split(".")[0] for path in sources() for name in imports(path)}
    assert {"prefect", "dvc", "great_expectations", "keras", "mlflow", "bentoml", "evidently", "openvino"} <= found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
    assert path.stem not in VAGUE


def test_nothing_is_swallowed_or_left_to_do() -> None:
    pattern = re.compile(r"except( Exception)?:\s*(pass|\.\.\.)|\bTODO\b|\bFIXME\b|NotImplementedError")
    assert not [str(path.relative_to(ROOT)) for path in sources() if pattern.search(path.read_text(encoding="utf-8"))]


def tracked() -> list[str]:
    """The files that git tracks."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def test_no_bytes_of_data_or_models_are_tracked() -> None:
    kinds = (".dcm", ".nii", ".gz", ".onnx", ".h5", ".keras", ".npy", ".npz", ".db", ".jpg")
    assert not [name for name in tracked() if name.endswith(kinds)]


def test_the_lock_has_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "--hash=sha256:" in text
    assert not re.search(r"https?://|--index-url|--find-links|file:", text)


def test_the_architecture_names_every_file() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    unnamed = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.stem != "__init__" and "migrations" not in path.parts and path.stem not in text
    ]
    assert not unnamed


def test_the_readme_names_every_command_and_no_other() -> None:
    from pipelines import cli

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`oncoloop ([a-z]+)", text)) | set(
        re.findall(r"^    oncoloop ([a-z]+)", text, re.MULTILINE)
    )
    assert named == set(cli.COMMANDS)
