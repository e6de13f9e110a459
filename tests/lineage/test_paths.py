"""State is written to the configured folder, and no vendor writes anywhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lineage import paths

ROOT = Path(__file__).resolve().parents[2]

# Code with which each vendor writes to the home folder unless it is configured. MLflow: see test_registry.
VENDORS = {
    "openvino": "import openvino; openvino.Core().available_devices",
    "onnxruntime": "import onnxruntime; onnxruntime.get_available_providers()",
    "matplotlib": "import matplotlib.pyplot as plt; plt.figure(); assert plt.get_backend() == 'Agg'",
    "bentoml": "import bentoml; assert bentoml.bentos.list() == []",
    "prefect": (
        "from prefect.settings import get_current_settings as now;"
        "from prefect._internal.analytics.enabled import is_telemetry_enabled as telling;"
        "assert not now().server.analytics_enabled and not telling();"
        "assert 'var' in now().home.parts"
    ),
    "dvc": (
        "import subprocess, sys; from pathlib import Path; Path('f').write_text('a');"
        "[subprocess.run(c, shell=True, check=True) for c in "
        "('git init -q .', sys.executable + ' -m dvc init -q', sys.executable + ' -m dvc add -q f')];"
        "from dvc.analytics import is_enabled; assert not is_enabled();"
        "from dvc.updater import Updater; assert not Updater('.').is_enabled()"
    ),
}


def test_home_is_var_of_the_workspace_unless_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ONCOLOOP_HOME", raising=False)
    assert paths.home() == tmp_path / "var"
    monkeypatch.setenv("ONCOLOOP_HOME", "elsewhere")
    assert paths.home() == tmp_path / "elsewhere"
    assert not paths.home().exists(), "reading the path does not create the folder"


def test_the_parent_folder_of_a_path_is_created(home: Path) -> None:
    path = paths.state_path("reports", "a", "b.html")
    assert path == home / "reports" / "a" / "b.html"
    assert path.parent.is_dir() and not path.exists()


def test_the_database_is_sqlite_unless_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.database_url() == f"sqlite:///{home}/oncoloop.db"
    monkeypatch.setenv("ONCOLOOP_DATABASE_URL", "postgresql://db/oncoloop")
    assert paths.database_url() == "postgresql://db/oncoloop"


def test_every_vendor_folder_is_below_home(home: Path) -> None:
    environment = paths.environment()
    for name in paths.FOLDERS:
        assert Path(environment[name]).is_relative_to(home) and Path(environment[name]).is_dir(), name
    assert environment["MLFLOW_TRACKING_URI"].startswith(f"sqlite:///{home}/")


def test_variables_set_by_the_user_are_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    monkeypatch.delenv("KERAS_HOME")
    paths.set_environment()
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://mlflow.example"
    assert os.environ["KERAS_HOME"] == str(home / "cache" / "keras")


def test_the_environment_does_not_set_the_prefect_api_address(home: Path) -> None:
    assert "PREFECT_API_URL" not in paths.environment()


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_vendor_sends_no_telemetry_and_does_not_write_to_the_home_folder(vendor: str, tmp_path: Path) -> None:
    read_only_home, work = tmp_path / "empty", tmp_path / "work"
    read_only_home.mkdir(mode=0o555)
    work.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(read_only_home), "PYTHONPATH": str(ROOT)}
    text = f"from lineage import paths; paths.set_environment(); {VENDORS[vendor]}"
    process = subprocess.run([sys.executable, "-c", text], cwd=work, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert list(read_only_home.iterdir()) == []
    allowed = {"var", ".git", ".dvc", ".dvcignore", ".gitignore", "f", "f.dvc"}
    assert {path.name for path in work.iterdir()} <= (allowed if vendor == "dvc" else {"var"})


def test_importing_lineage_imports_no_heavy_library() -> None:
    text = (
        "import sys, lineage.record.ledger, lineage.accounts, lineage.record.journal, lineage.mlflow_registry; "
        "import lineage.audit.trace;"
        "sys.exit(bool({'mlflow', 'pandas', 'numpy', 'alembic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", text], cwd=ROOT).returncode == 0
