"""What guards the house: import directions, vendor doors, plain words, files that a person can read in one go."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

from lineage import fingerprint
from serving.bundle import bento_build

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("lineage", "data", "serving", "training", "monitoring", "desk", "pipelines")
LEVEL = {"lineage": 0, "data": 1, "serving": 2, "training": 3, "monitoring": 3, "pipelines": 4, "desk": 4}
NETWORKS = {
    *(f"training/network/{name}.py" for name in ("batch_norm", "layers", "devices", "onnx_export", "model")),
    *(f"training/fitting/{name}.py" for name in ("augmentation", "fit", "training_loop", "image_transforms")),
}
DOORS = {
    "prefect": {
        f"pipelines/flows/{name}.py"
        for name in (
            "ingest",
            "retrain",
            "remote_fit",
            "watch",
            "deployments",
            "work_pool",
            "scheduled_flows",
            "artifacts",
        )
    },
    "dvc": {"pipelines/workspace/dvc.py"},
    "great_expectations": {"data/quality/suite.py"},
    **dict.fromkeys(("keras", "tensorflow", "jax"), NETWORKS),
    "mlflow": {"training/mlflow_runs.py", "lineage/registry.py"},
    "bentoml": {"serving/http/service.py", "serving/bundle/bento_build.py"},
    "evidently": {"monitoring/evidently_report.py"},
    "openvino": {"serving/inference/graph.py"},
    "onnxruntime": {"serving/inference/graph.py"},
    "sqlalchemy": {"lineage/record/database.py"},
    "faiss": {"data/duplicates/vector_index.py"},
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
    assert len(text.splitlines()) <= 500
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


def module_of(path: Path) -> str:
    """The dotted name of a file, of a package that of its `__init__.py`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Which modules of ours each module imports, wherever in it: also inside functions and for types alone."""
    modules = {module_of(path): path for path in sources()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        imported = set(imports(path)) | {
            f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        graph[name] = {
            other for other in imported if other in modules and not modules[other].name.startswith("__init__")
        }
    return graph


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one circle of a graph; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_in_a_circle() -> None:
    assert not cycle(import_graph())


def test_no_sub_packages_import_each_other_in_a_circle() -> None:
    def package(module: str) -> str:
        return ".".join(module.split(".")[:2]) if module.count(".") > 1 else module

    graph: dict[str, set[str]] = {}
    for module, imported in import_graph().items():
        graph.setdefault(package(module), set()).update(package(other) for other in imported)
    assert not cycle({name: others - {name} for name, others in graph.items()})


def test_no_folder_holds_more_than_16_files() -> None:
    folders = Counter(path.parent for path in [*sources(), *(ROOT / "bench").glob("*.py")] if path.stem != "__init__")
    assert not {str(folder.relative_to(ROOT)): count for folder, count in folders.items() if count > 16}


def test_every_package_says_what_belongs_there_and_is_installed() -> None:
    packages = {path.parent for path in sources()}
    for folder in packages:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(".".join(folder.relative_to(ROOT).parts) for folder in packages)


def used(*modules: str) -> set[str]:
    """These modules and all that they import, directly or not."""
    graph, reached, waiting = import_graph(), set[str](), list(modules)
    while waiting:
        if (module := waiting.pop()) not in reached:
            reached.add(module)
            waiting += graph[module]
    return reached


def covered(packages: list[str]) -> set[str]:
    """The modules of packages as `code.json` names them."""
    return {module_of(path) for package in packages for path in fingerprint.sources(package)}


STAGE_MODULES = {
    "prepare": ("data.dataset.shards", "data.dataset.cohorts"),
    "fit": ("data.dataset.shards", "training.fitting.fit"),
    "evaluate": ("data.dataset.shards", "training.evaluation.evaluate"),
}


@pytest.mark.parametrize("stage", STAGE_MODULES)
def test_a_stage_depends_on_the_code_that_it_uses_and_on_no_other(stage: str) -> None:
    """The record of runs (lineage) changes no result; a fit uses the served graph to check its export alone."""
    text = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["params"]
    named = [name for entry in text if isinstance(entry, dict) for name in entry.get("code.json", []) if name != "lock"]
    ignored = ("lineage.", "serving.") if stage == "fit" else ("lineage.",)
    modules = {module for module in used(*STAGE_MODULES[stage]) if not module.startswith(ignored)}
    assert modules <= covered(named)
    for package in named:
        assert modules & covered([package]), package


def test_a_release_holds_the_code_that_it_uses_and_no_other_package() -> None:
    modules = used("serving.http.service", "serving.inference.answer", "serving.bundle.launch")
    assert modules <= covered(list(bento_build.CARRIED))
    for package in bento_build.CARRIED:
        assert modules & covered([package]), package


def test_no_private_module_of_a_library_is_imported() -> None:
    private = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources()
        for name in imports(path)
        if any(part.startswith("_") for part in name.split(".")) and name != "__future__"
    ]
    assert not private
