"""Data versions for people and for others: list, diff, checkout, and `dvc get` from elsewhere."""

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
from pipelines import data_versions, params
from pipelines.recovery import interrupted_runs
from pipelines.workspace import git
from tests.pipelines.flows.test_atomic_admission import run

TASK = "brain-mr"


@pytest.fixture
def ward(workspace: Path) -> Path:
    for seed, name in ((60, "first"), (61, "second")):
        batch.write_batch(Path("inbox", name), params.load().tasks[TASK], 3, scanner.SCANNERS["alder-mr"], seed, 2)
        run(name)
    return workspace


def test_versions_for_people_and_for_others(ward: Path, tmp_path: Path) -> None:
    older, newer = data_versions.list_versions()
    assert (older["batch"], newer["batch"], newer["units"], newer["lost"]) == ("first", "second", 6, None)
    change = data_versions.diff(older["version"], newer["version"])
    assert change["added"] == [f"{TASK}/second"] and change["removed"] == []
    table = manifest.read_manifest(Path("data/batches", TASK, "second", "manifest.csv"))
    was, now = change["tasks"][TASK]["labels"]
    counted = table["label"].value_counts()
    assert {name: now[name] - was.get(name, 0) for name in now} == {name: int(counted.get(name, 0)) for name in now}
    assert change["tasks"][TASK]["units"] == [6, 12] and change["tasks"][TASK]["patients"] == [3, 6]
    assert f"{TASK}: units 6 -> 12, patients 3 -> 6" in data_versions.describe(change)
    assert data_versions.diff(newer["version"], newer["version"])["tasks"] == {}
    folder, lost = data_versions.checkout(older["version"])
    assert lost == "" and not (folder / "data/batches" / TASK / "second").exists()
    there, here = (root / "data/batches" / TASK / "first" for root in (folder, ward))
    assert {p.name: p.read_bytes() for p in there.rglob("*") if p.is_file()} == {
        p.name: p.read_bytes() for p in here.rglob("*") if p.is_file()
    }
    somebody_else(ward, tmp_path / "elsewhere", older["version"])


def somebody_else(ward: Path, folder: Path, version: str) -> None:
    """`dvc get` by a person without our settings: a batch of today, and the same of an older version."""
    folder.mkdir()
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("ONCOLOOP", "DVC", "PYTHON"))}
    plain |= {"HOME": str(folder), "DVC_SITE_CACHE_DIR": str(folder / "site"), "DVC_NO_ANALYTICS": "1"}
    for name, more in (("second", []), ("first", ["--rev", version])):
        command = [sys.executable, "-m", "dvc", "get", str(ward), f"data/batches/{TASK}/{name}", *more]
        done = subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        here = ward / "data/batches" / TASK / name
        got = {p.relative_to(folder / name): p.read_bytes() for p in (folder / name).rglob("*") if p.is_file()}
        assert got == {p.relative_to(here): p.read_bytes() for p in here.rglob("*") if p.is_file()}


def test_an_old_assignment_that_somebody_changed_is_refused_by_name(ward: Path) -> None:
    path = Path("data/cohorts", f"{TASK}.csv")
    text = path.read_text(encoding="utf-8")
    table = cohorts.read_cohorts(path)
    cluster, side = table["cluster"].iloc[1], table["side"].iloc[1]
    other = "test" if side != "test" else "training"
    path.write_text(text.replace(f"{cluster},{side}", f"{cluster},{other}"), encoding="utf-8")
    with pytest.raises(Fault, match=rf"the file changed an old assignment \({cluster}: side was '{side}'"):
        interrupted_runs.settle()
    assert other in path.read_text(encoding="utf-8")
    git.commit(["data"], "By hand")
    with pytest.raises(Fault, match=f"a commit changed an old assignment \\({cluster}"):
        interrupted_runs.settle()
    path.write_text("\n".join(text.splitlines()[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(Fault, match="a commit changed an old assignment"):
        interrupted_runs.settle()
    version = ledger.events(kind="batch.admitted")[-1].payload["data_version"]
    git.run("checkout", version, "--", str(path))
    git.commit(["data"], "Back")
    interrupted_runs.settle()
    assert path.read_text(encoding="utf-8") == text


def test_a_table_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lung-ct.csv"
    row = {"task": "lung-ct", "side": "test", "epoch": 1, "stratum": "normal|", "batch": "a", "assigned_at": "2026"}
    cohorts.append_cohorts(path, pd.DataFrame([row | {"cluster": "P1"}]))
    before = path.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        cohorts.append_cohorts(path, pd.DataFrame([row | {"cluster": "P2"}]))
    assert path.read_bytes() == before


def test_packed_shards_carry_their_hashes(ward: Path) -> None:
    target, task = Path("packed"), params.load().tasks[TASK]
    folders = [Path("data/batches", TASK, name) for name in ("first", "second")]
    shards.pack(
        folders, cohorts.named(cohorts.read_cohorts(Path("data/cohorts", f"{TASK}.csv")), folders), task, target
    )
    checked = subprocess.run(["sha256sum", "-c", shards.SUMS], cwd=target, capture_output=True, text=True, check=False)
    assert checked.stdout.splitlines() == ["units.csv: OK", "first.npy: OK", "second.npy: OK"]
    assert len(shards.load(target).table) == 12
    content = bytearray((target / "second.npy").read_bytes())
    content[-3] ^= 1
    (target / "second.npy").write_bytes(content)
    with pytest.raises(Fault, match=r"second\.npy is damaged: its bytes are not those that were packed"):
        shards.load(target)
