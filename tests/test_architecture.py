"""Architecture rules: import directions, vendor modules, plain names, short files, declared dependencies."""

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
PACKAGES = ("lineage", "data", "serving", "training", "monitoring", "desk", "pipelines")
LEVEL = {"lineage": 0, "data": 1, "serving": 2, "training": 3, "monitoring": 3, "pipelines": 4, "desk": 4}
NETWORK_MODULES = {
    *(f"training/network/{name}.py" for name in ("batch_norm", "layers", "devices", "onnx_export", "model")),
    *(f"training/fitting/{name}.py" for name in ("augmentation", "fit", "training_loop", "image_transforms")),
}
VENDOR_MODULES = {
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
    **dict.fromkeys(("keras", "tensorflow", "jax"), NETWORK_MODULES),
    "mlflow": {"training/mlflow_runs.py", "lineage/mlflow_registry.py"},
    "bentoml": {"serving/http/service.py", "serving/bundle/bento_build.py"},
    "evidently": {"monitoring/evidently_report.py"},
    "openvino": {"serving/inference/graph.py"},
    "onnxruntime": {"serving/inference/graph.py"},
    "sqlalchemy": {"lineage/record/database.py"},
    "faiss": {"data/duplicates/vector_index.py"},
    "shtab": {"pipelines/commands/completion.py"},
    "pydantic": {"pipelines/settings_validation.py"},
    "pydantic_core": {"pipelines/settings_validation.py", "data/ranges.py"},
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
BANNED_NAMES = {
    *("told", "found", "seen", "said", "made", "held", "kept", "gone", "known", "asked", "shown"),
    *("given", "taken", "each", "one", "thing", "whole", "both", "named", "wanted"),
}
BANNED_NAMES_LIMIT = 5  # of variables, parameters and functions in the packages
FORMAT_SKIPS_LIMIT = 15  # lines excluded from formatting, in all tracked Python files


def sources() -> list[Path]:
    """Every Python file of the packages."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_lower_packages(package: str) -> None:
    violations = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in imports(path)
        if (imported_package := name.split(".")[0]) in LEVEL
        and imported_package != package
        and LEVEL[imported_package] >= LEVEL[package]
    ]
    assert not violations


@pytest.mark.parametrize("vendor", VENDOR_MODULES)
def test_a_vendor_is_imported_only_in_its_modules(vendor: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in sources()
        if "migrations" not in path.parts and any(name.split(".")[0] == vendor for name in imports(path))
    }
    assert users <= VENDOR_MODULES[vendor]


def test_the_main_vendors_are_used() -> None:
    imported = {name.split(".")[0] for path in sources() for name in imports(path)}
    assert {"prefect", "dvc", "great_expectations", "keras", "mlflow", "bentoml", "evidently", "openvino"} <= imported


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_and_has_a_module_docstring(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
    assert path.stem not in VAGUE


def test_no_error_is_ignored_and_no_work_is_left_open() -> None:
    pattern = re.compile(r"except( Exception)?:\s*(pass|\.\.\.)|\bTODO\b|\bFIXME\b|NotImplementedError")
    assert not [str(path.relative_to(ROOT)) for path in sources() if pattern.search(path.read_text(encoding="utf-8"))]


def tracked_files() -> list[str]:
    """The files that git tracks."""
    process = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return process.stdout.splitlines()


def bound_names(source: str) -> Iterator[str]:
    """The names of variables, fields, parameters, functions and classes of a source, without leading underscores."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id.lstrip("_")
        elif isinstance(node, ast.arg):
            yield node.arg.lstrip("_")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or (
            isinstance(node, ast.ExceptHandler) and node.name
        ):
            yield node.name.lstrip("_")


def test_bound_names_are_variables_parameters_fields_and_functions() -> None:
    source = "def _told(seen, *held, kept=0):\n    one, (each,) = seen\n    return [found.said for made in one]\n"
    assert sorted(bound_names(source)) == ["each", "held", "kept", "made", "one", "seen", "told"]


def test_few_names_are_participles_or_fillers() -> None:
    counts = Counter(
        {
            str(path.relative_to(ROOT)): sum(
                name in BANNED_NAMES for name in bound_names(path.read_text(encoding="utf-8"))
            )
            for path in sources()
        }
    )
    assert counts.total() <= BANNED_NAMES_LIMIT, counts.most_common(20)


def test_few_lines_are_excluded_from_formatting() -> None:
    marker = "# fmt:" + " skip"
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in tracked_files() if name.endswith(".py")]
    assert sum(text.count(marker) for text in texts) <= FORMAT_SKIPS_LIMIT


def test_no_data_or_model_files_are_tracked() -> None:
    suffixes = (".dcm", ".nii", ".gz", ".onnx", ".h5", ".keras", ".npy", ".npz", ".db", ".jpg")
    assert not [name for name in tracked_files() if name.endswith(suffixes)]


def test_the_lock_has_hashes_and_no_index_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "--hash=sha256:" in text
    assert not re.search(r"https?://|--index-url|--find-links|file:", text)


def module_of(path: Path) -> str:
    """The dotted module name of a file; for an `__init__.py` that of its package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Module -> the modules of our packages that it imports, also inside functions and for type checking only."""
    modules = {module_of(path): path for path in sources()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        imported_names = set(imports(path)) | {
            f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        graph[name] = {
            imported_name
            for imported_name in imported_names
            if imported_name in modules and not modules[imported_name].name.startswith("__init__")
        }
    return graph


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one cycle of a graph; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_there_are_no_circular_imports_of_modules() -> None:
    assert not find_cycle(import_graph())


def test_there_are_no_circular_imports_of_sub_packages() -> None:
    def sub_package(module: str) -> str:
        return ".".join(module.split(".")[:2]) if module.count(".") > 1 else module

    graph: dict[str, set[str]] = {}
    for module, imported in import_graph().items():
        graph.setdefault(sub_package(module), set()).update(
            sub_package(imported_module) for imported_module in imported
        )
    assert not find_cycle({name: imported_packages - {name} for name, imported_packages in graph.items()})


def test_no_folder_has_more_than_16_files() -> None:
    folders = Counter(path.parent for path in [*sources(), *(ROOT / "bench").rglob("*.py")] if path.stem != "__init__")
    assert not {str(folder.relative_to(ROOT)): count for folder, count in folders.items() if count > 16}


def test_every_package_has_a_docstring_and_is_installed() -> None:
    packages = {path.parent for path in sources()}
    for folder in packages:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert sorted(installed) == sorted(".".join(folder.relative_to(ROOT).parts) for folder in packages)


def transitive_imports(*modules: str) -> set[str]:
    """These modules and all modules that they import, directly or indirectly."""
    graph, reached, pending = import_graph(), set[str](), list(modules)
    while pending:
        if (module := pending.pop()) not in reached:
            reached.add(module)
            pending += graph[module]
    return reached


def modules_of_packages(packages: list[str]) -> set[str]:
    """The modules of packages that are named as in `code.json`."""
    return {module_of(path) for package in packages for path in fingerprint.sources(package)}


STAGE_MODULES = {
    "prepare": ("data.dataset.shards", "data.dataset.cohorts"),
    "fit": ("data.dataset.shards", "training.fitting.fit"),
    "evaluate": ("data.dataset.shards", "training.evaluation.evaluate"),
}


@pytest.mark.parametrize("stage", STAGE_MODULES)
def test_a_stage_depends_exactly_on_the_packages_that_it_uses(stage: str) -> None:
    """Lineage changes no result, so it is ignored; a fit uses the served graph only to check its export."""
    text = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["params"]
    packages = [
        name for entry in text if isinstance(entry, dict) for name in entry.get("code.json", []) if name != "lock"
    ]
    ignored = ("lineage.", "serving.") if stage == "fit" else ("lineage.",)
    modules = {module for module in transitive_imports(*STAGE_MODULES[stage]) if not module.startswith(ignored)}
    assert modules <= modules_of_packages(packages)
    for package in packages:
        assert modules & modules_of_packages([package]), package


def test_a_release_contains_only_packages_that_it_uses() -> None:
    modules = transitive_imports("serving.http.service", "serving.inference.answer", "serving.bundle.launch")
    assert modules <= modules_of_packages(list(bento_build.PACKED_PACKAGES))
    for package in bento_build.PACKED_PACKAGES:
        assert modules & modules_of_packages([package]), package


def test_no_private_module_of_a_library_is_imported() -> None:
    private = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources()
        for name in imports(path)
        if any(part.startswith("_") for part in name.split(".")) and name != "__future__"
    ]
    assert not private
