"""The way in as a user meets it: a broken folder stops no other, and a table of corrections becomes a batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data.batch import manifest as batch_manifest
from data.batch import metadata_table
from data.phantom import batch as phantom_batch
from data.phantom import scanner
from lineage.errors import Fault
from pipelines import params
from pipelines.flows import ingest, ingest_corrections
from tests.pipelines.conftest import Run

TASK = "brain-mr"
HEADING = "file_name,patient_id,task,label,labeller,labelled_at,truth,slice"
BROKEN = {
    "no-columns": "nothing,of,use\n1,2,3\n",
    "no-task": "file_name,patient_id,task,label\nscan.png,7,toe-ct,normal\n",
    "no-file": f"file_name,patient_id,task,label\nscan.png,7,{TASK},no_tumour\n",
    "no-table": "\xff\xfe",
}


def broken(inbox: Path) -> None:
    """A folder for each way to be no batch."""
    for name, table in BROKEN.items():
        (inbox / name).mkdir(parents=True)
        (inbox / name / "metadata.csv").write_bytes(table.encode("latin-1"))
        if name != "no-file":
            (inbox / name / "scan.png").write_bytes(b"picture")


def corrections(folder: Path, manifest: Path, task: str = TASK) -> Path:
    """A folder that corrects the label of the first unit of a batch."""
    unit = batch_manifest.read_manifest(manifest).iloc[0]
    label = "tumour" if unit["label"] == "no_tumour" else "no_tumour"
    said = (
        f"{metadata_table.HASH}{unit['sha256']},,{task},{label},"
        f"dr-b,2026-06-01T09:00:00Z,pathology,{int(unit['slice'])}"
    )
    folder.mkdir()
    (folder / "metadata.csv").write_text(f"{HEADING}\n{said}\n", encoding="utf-8")
    return folder


def test_a_broken_folder_is_named_and_the_others_are_judged(tmp_path: Path, oncoloop: Run) -> None:
    """And then a table of corrections is imported: a batch of the inbox like any other."""
    ward = tmp_path / "ward"
    assert oncoloop("init", str(ward), cwd=tmp_path).returncode == 0
    task = params.load(ward).tasks[TASK]
    phantom_batch.write_batch(ward / "inbox" / "zoo", task, 6, scanner.SCANNERS["alder-mr"], 60, 2)
    broken(ward / "inbox")
    done = oncoloop("ingest", "--json", cwd=ward)
    told = json.loads(done.stdout)
    assert done.returncode == 1, done.stderr
    assert [(one["batch"], one["verdict"]["outcome"]) for one in told["batches"]] == [("zoo", "pass")]
    assert [one["folder"] for one in told["broken"]] == sorted(BROKEN)
    shutil.move(ward / "inbox/zoo", tmp_path / "zoo")
    again = oncoloop("ingest", cwd=ward)
    assert (again.returncode, again.stdout.count("is broken and was not judged")) == (1, 4)
    assert "inbox/no-columns is broken and was not judged: no-columns/metadata.csv: missing columns" in again.stdout
    manifest = ward / "data/batches" / TASK / "zoo" / "manifest.csv"
    source = corrections(tmp_path / "fix", manifest)
    with pytest.raises(Fault, match="its rows correct no scans of lung-ct"):
        ingest_corrections.bring(source, ward / "inbox/fix", params.load(ward).tasks["lung-ct"])
    made = json.loads(oncoloop("import", str(source), "--task", TASK, "--json", cwd=ward).stdout)
    assert made == {"batch": "fix", "layout": "corrections", "rows": 1, "files": 1}
    brought = metadata_table.metadata(ward / "inbox/fix")
    assert metadata_table.corrects(brought) and brought.equals(metadata_table.metadata(source))
    assert sorted(path.name for path in (ward / "inbox/fix").iterdir()) == ["import.json", "metadata.csv"]


def test_each_way_to_be_broken_has_its_sentence(workspace: Path) -> None:
    broken(workspace / "inbox")
    found: dict[str, str] = {}
    assert ingest.waiting(None, broken=found) == [] and ingest.waiting(None) == []
    wanted = ("missing columns", "the task in its metadata.csv", "1 files that metadata.csv names", "is not UTF-8")
    names = ("no-columns", "no-task", "no-file", "no-table")
    assert all(why in found[name] for name, why in zip(names, wanted, strict=True)), found
    with pytest.raises(Fault, match="missing columns"):
        ingest.waiting(Path("inbox/no-columns"), broken=found)


def test_a_name_that_is_taken_is_told_and_stops_no_other(workspace: Path) -> None:
    task = params.load().tasks[TASK]
    for name in ("one", "two"):
        phantom_batch.write_batch(workspace / "inbox" / name, task, 1, scanner.SCANNERS["alder-mr"], 61 + len(name), 1)
    (workspace / "data/batches" / TASK / "one.dvc").write_text("outs:\n- md5: a.dir\n  path: one\n")
    found: dict[str, str] = {}
    assert [batch.name for batch in ingest.waiting(None, broken=found)] == ["two"]
    assert list(found) == ["one"] and "already admitted with other content" in found["one"]


def test_the_log_names_no_broken_folder(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    (workspace / "inbox/Quillfeather").mkdir()
    (workspace / "inbox/Quillfeather/metadata.csv").write_text("nothing\n")
    assert ingest.waiting(None) == []
    assert "1 folders of the inbox are broken" in caplog.text and "Quillfeather" not in caplog.text


def test_corrections_that_are_packed_are_asked_for_as_a_folder(workspace: Path, tmp_path: Path) -> None:
    from data.importing import import_folder

    table = f"{HEADING}\n{metadata_table.HASH}{'0' * 64},,{TASK},tumour,dr-b,2026-06-01T09:00:00Z,pathology,0\n"
    (tmp_path / "fix").mkdir()
    (tmp_path / "fix" / "metadata.csv").write_text(table, encoding="utf-8")
    shutil.make_archive(str(tmp_path / "fix"), "zip", tmp_path / "fix")
    task = params.load().tasks[TASK]
    assert ingest_corrections.bring(tmp_path / "fix.zip", workspace / "inbox/fix", task) is None
    with pytest.raises(Fault, match="unpack it, and import the folder"):
        import_folder.import_folder(tmp_path / "fix.zip", workspace / "inbox/fix", task)
    assert list((workspace / "inbox").iterdir()) == []
