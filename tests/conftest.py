"""Fixtures shared by all tests: a separate state folder, the real scans, and a browser."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Prefect creates its folder at import, before any fixture runs: not in the home folder of the user.
os.environ.setdefault("PREFECT_HOME", str(Path(tempfile.gettempdir()) / "oncoloop-tests-prefect"))

# The files that take longest, longest first: workers that start with them end at the same time.
LONGEST_FILES = (
    "pipelines/test_loop.py",
    "pipelines/workspace/test_backup.py",
    "training/fitting/test_fine_tuning.py",
    "training/evaluation/test_heatmap_checks.py",
    "training/fitting/test_interrupted_fit.py",
    "pipelines/test_warm_start_pins.py",
    "pipelines/models/test_judged_files.py",
    "training/evaluation/test_whole_bodies.py",
    "training/fitting/test_jax_fit.py",
    "serving/inference/test_identity_leaks.py",
    "pipelines/recovery/test_verify_workspace.py",
    "pipelines/servers/test_blue_green.py",
    "pipelines/test_cli.py",
    "pipelines/withdrawal/test_withdraw.py",
    "pipelines/flows/test_identity_leaks.py",
    "pipelines/workspace/test_inbox_digests.py",
    "training/network/test_devices.py",
    "training/network/test_model.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files: first those of `LONGEST_FILES`, in that order. The tests of a file stay in theirs."""
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without rows: it is copied for each test, since migrating takes longer."""
    from lineage.record import database

    path = tmp_path_factory.mktemp("database") / "oncoloop.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCOLOOP_DATABASE_URL", f"sqlite:///{path}")
        database.migrate()
        database.engine().dispose()
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    """An empty state folder with keys and database; the working folder of the test is the workspace."""
    from lineage import keys, paths
    from lineage.record import database

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONCOLOOP_HOME", str(tmp_path / "var"))
    monkeypatch.delenv("ONCOLOOP_DATABASE_URL", raising=False)
    for name, value in paths.environment().items():
        monkeypatch.setenv(name, value)
    keys.create()
    shutil.copyfile(empty_database, paths.state_path("oncoloop.db"))
    database.migrate()
    return tmp_path / "var"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; the test is skipped if it is absent, but fails in CI."""
    folder = Path(os.environ.get("ONCOLOOP_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"there are no real scans at {folder}")
        pytest.skip(f"no real scans at {folder}; set ONCOLOOP_REAL_DATA")
    return folder


CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The installed Chromium; the test is skipped if there is none, but fails in CI."""
    if not CHROMIUM.exists():
        if os.environ.get("CI"):
            pytest.fail(f"there is no browser at {CHROMIUM}")
        pytest.skip(f"there is no browser at {CHROMIUM}; install it with `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
