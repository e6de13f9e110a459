"""Data versions: list, diff, checkout, and `dvc get` from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from data.batch import manifest
from data.dataset import cohorts, shards
from data.phantom import batch, scanner
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from pipelines import data_versions, params
from pipelines.recovery import interrupted_runs
from pipelines.workspace import git
from tests.pipelines.admissions import run_admission

TASK = "brain-mr"


@pytest.fixture
def workspace_with_batches(workspace: Path) -> Path:
    for seed, name in ((60, "first"), (61, "second")):
        batch.write_batch(Path("inbox", name), params.load().tasks[TASK], 3, scanner.SCANNERS["alder-mr"], seed, 2)
        run_admission(name)
    return workspace


def test_versions_are_listed_compared_and_checked_out(workspace_with_batches: Path, tmp_path: Path) -> None:
    older, newer = data_versions.list_versions()
    assert (older["batch"], newer["batch"], newer["units"], newer["lost"]) == ("first", "second", 6, None)
    change = data_versions.diff(older["version"], newer["version"])
    assert change["added"] == [f"{TASK}/second"] and change["removed"] == []
    table = manifest.read_manifest(Path("data/batches", TASK, "second", "manifest.csv"))
    before, after = change["tasks"][TASK]["labels"]
    label_counts = table["label"].value_counts()
    assert {name: after[name] - before.get(name, 0) for name in after} == {
        name: int(label_counts.get(name, 0)) for name in after
    }
    assert change["tasks"][TASK]["units"] == [6, 12] and change["tasks"][TASK]["patients"] == [3, 6]
    assert f"{TASK}: units 6 -> 12, patients 3 -> 6" in data_versions.describe(change)
    assert data_versions.diff(newer["version"], newer["version"])["tasks"] == {}
    folder, lost = data_versions.checkout(older["version"])
    assert lost == "" and not (folder / "data/batches" / TASK / "second").exists()
    checked_out, current = (root / "data/batches" / TASK / "first" for root in (folder, workspace_with_batches))
    assert {p.name: p.read_bytes() for p in checked_out.rglob("*") if p.is_file()} == {
        p.name: p.read_bytes() for p in current.rglob("*") if p.is_file()
    }
    get_batches_with_plain_dvc(workspace_with_batches, tmp_path / "elsewhere", older["version"])


def get_batches_with_plain_dvc(workspace_with_batches: Path, folder: Path, version: str) -> None:
    """`dvc get` without our settings: a batch of the current version, and one of an older version."""
    folder.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ONCOLOOP", "DVC", "PYTHON"))
    }
    environment |= {"HOME": str(folder), "DVC_SITE_CACHE_DIR": str(folder / "site"), "DVC_NO_ANALYTICS": "1"}
    for name, options in (("second", []), ("first", ["--rev", version])):
        command = [
            sys.executable,
            "-m",
            "dvc",
            "get",
            str(workspace_with_batches),
            f"data/batches/{TASK}/{name}",
            *options,
        ]
        process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        source = workspace_with_batches / "data/batches" / TASK / name
        files = {p.relative_to(folder / name): p.read_bytes() for p in (folder / name).rglob("*") if p.is_file()}
        assert files == {p.relative_to(source): p.read_bytes() for p in source.rglob("*") if p.is_file()}


def test_a_changed_cohort_assignment_is_refused_by_name(workspace_with_batches: Path) -> None:
    path = Path("data/cohorts", f"{TASK}.csv")
    text = path.read_text(encoding="utf-8")
    table = cohorts.read_cohorts(path)
    cluster, side = table["cluster"].iloc[1], table["side"].iloc[1]
    changed_side = "test" if side != "test" else "training"
    path.write_text(text.replace(f"{cluster},{side}", f"{cluster},{changed_side}"), encoding="utf-8")
    with pytest.raises(Fault, match=rf"the file changed an old assignment \({cluster}: side was '{side}'"):
        interrupted_runs.recover_workspace()
    assert changed_side in path.read_text(encoding="utf-8")
    git.commit(["data"], "By hand")
    with pytest.raises(Fault, match=f"a commit changed an old assignment \\({cluster}"):
        interrupted_runs.recover_workspace()
    path.write_text("\n".join(text.splitlines()[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(Fault, match="a commit changed an old assignment"):
        interrupted_runs.recover_workspace()
    version = ledger.events(kind=EventKind.BATCH_ADMITTED)[-1].payload["data_version"]
    git.run("checkout", version, "--", str(path))
    git.commit(["data"], "Back")
    interrupted_runs.recover_workspace()
    assert path.read_text(encoding="utf-8") == text


def test_a_table_is_replaced_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lung-ct.csv"
    row = {"task": "lung-ct", "side": "test", "epoch": 1, "stratum": "normal|", "batch": "a", "assigned_at": "2026"}
    cohorts.append_cohorts(path, pd.DataFrame([row | {"cluster": "P1"}]))
    before = path.read_bytes()

    def fail(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        cohorts.append_cohorts(path, pd.DataFrame([row | {"cluster": "P2"}]))
    assert path.read_bytes() == before


def test_packed_shards_have_a_file_of_their_hashes(workspace_with_batches: Path) -> None:
    target, task = Path("packed"), params.load().tasks[TASK]
    folders = [Path("data/batches", TASK, name) for name in ("first", "second")]
    shards.pack_shards(
        folders,
        cohorts.restore_cluster_names(cohorts.read_cohorts(Path("data/cohorts", f"{TASK}.csv")), folders),
        task,
        target,
    )
    process = subprocess.run(["sha256sum", "-c", shards.SUMS], cwd=target, capture_output=True, text=True, check=False)
    assert process.stdout.splitlines() == ["units.csv: OK", "first.npy: OK", "second.npy: OK"]
    assert len(shards.load_units(target).table) == 12
    content = bytearray((target / "second.npy").read_bytes())
    content[-3] ^= 1
    (target / "second.npy").write_bytes(content)
    with pytest.raises(Fault, match=r"second\.npy is damaged: its bytes are not those that were packed"):
        shards.load_units(target)
