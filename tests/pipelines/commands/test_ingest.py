"""Ingest on the command line: a broken folder stops no other, and a table of corrections becomes a batch."""

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


def write_broken_folders(inbox: Path) -> None:
    """Write a folder for each kind of broken batch."""
    for name, table in BROKEN.items():
        (inbox / name).mkdir(parents=True)
        (inbox / name / "metadata.csv").write_bytes(table.encode("latin-1"))
        if name != "no-file":
            (inbox / name / "scan.png").write_bytes(b"picture")


def write_corrections(folder: Path, manifest: Path, task: str = TASK) -> Path:
    """Write a folder that corrects the label of the first unit of a batch."""
    unit = batch_manifest.read_manifest(manifest).iloc[0]
    label = "tumour" if unit["label"] == "no_tumour" else "no_tumour"
    row = (
        f"{metadata_table.HASH_PREFIX}{unit['sha256']},,{task},{label},"
        f"dr-b,2026-06-01T09:00:00Z,pathology,{int(unit['slice'])}"
    )
    folder.mkdir()
    (folder / "metadata.csv").write_text(f"{HEADING}\n{row}\n", encoding="utf-8")
    return folder


def test_a_broken_folder_is_named_and_the_others_are_judged(tmp_path: Path, oncoloop: Run) -> None:
    """Afterwards, a table of corrections is imported as a batch of the inbox."""
    workspace_folder = tmp_path / "ward"
    assert oncoloop("init", str(workspace_folder), cwd=tmp_path).returncode == 0
    task = params.load(workspace_folder).tasks[TASK]
    phantom_batch.write_batch(workspace_folder / "inbox" / "zoo", task, 6, scanner.SCANNERS["alder-mr"], 60, 2)
    write_broken_folders(workspace_folder / "inbox")
    process = oncoloop("ingest", "--json", cwd=workspace_folder)
    result = json.loads(process.stdout)
    assert process.returncode == 1, process.stderr
    assert [(entry["batch"], entry["verdict"]["outcome"]) for entry in result["batches"]] == [("zoo", "pass")]
    assert [entry["folder"] for entry in result["broken"]] == sorted(BROKEN)
    shutil.move(workspace_folder / "inbox/zoo", tmp_path / "zoo")
    second_run = oncoloop("ingest", cwd=workspace_folder)
    assert (second_run.returncode, second_run.stdout.count("is broken and was not judged")) == (1, 4)
    assert (
        "inbox/no-columns is broken and was not judged: no-columns/metadata.csv: missing columns" in second_run.stdout
    )
    manifest = workspace_folder / "data/batches" / TASK / "zoo" / "manifest.csv"
    source = write_corrections(tmp_path / "fix", manifest)
    with pytest.raises(Fault, match="its rows correct no scans of lung-ct"):
        ingest_corrections.import_corrections(
            source, workspace_folder / "inbox/fix", params.load(workspace_folder).tasks["lung-ct"]
        )
    imported = json.loads(oncoloop("import", str(source), "--task", TASK, "--json", cwd=workspace_folder).stdout)
    assert imported == {"batch": "fix", "layout": "corrections", "rows": 1, "files": 1}
    metadata = metadata_table.read_metadata(workspace_folder / "inbox/fix")
    assert metadata_table.is_correction_batch(metadata) and metadata.equals(metadata_table.read_metadata(source))
    assert sorted(path.name for path in (workspace_folder / "inbox/fix").iterdir()) == ["import.json", "metadata.csv"]


def test_each_kind_of_broken_folder_has_its_own_reason(workspace: Path) -> None:
    write_broken_folders(workspace / "inbox")
    reasons: dict[str, str] = {}
    assert ingest.unjudged_batches(None, broken=reasons) == [] and ingest.unjudged_batches(None) == []
    expected = ("missing columns", "the task in its metadata.csv", "1 files that metadata.csv names", "is not UTF-8")
    names = ("no-columns", "no-task", "no-file", "no-table")
    assert all(text in reasons[name] for name, text in zip(names, expected, strict=True)), reasons
    with pytest.raises(Fault, match="missing columns"):
        ingest.unjudged_batches(Path("inbox/no-columns"), broken=reasons)


def test_a_used_batch_name_is_reported_and_stops_no_other_batch(workspace: Path) -> None:
    task = params.load().tasks[TASK]
    for name in ("one", "two"):
        phantom_batch.write_batch(workspace / "inbox" / name, task, 1, scanner.SCANNERS["alder-mr"], 61 + len(name), 1)
    (workspace / "data/batches" / TASK / "one.dvc").write_text("outs:\n- md5: a.dir\n  path: one\n")
    reasons: dict[str, str] = {}
    assert [batch.name for batch in ingest.unjudged_batches(None, broken=reasons)] == ["two"]
    assert list(reasons) == ["one"] and "already admitted with other content" in reasons["one"]


def test_the_log_does_not_name_broken_folders(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    (workspace / "inbox/Quillfeather").mkdir()
    (workspace / "inbox/Quillfeather/metadata.csv").write_text("nothing\n")
    assert ingest.unjudged_batches(None) == []
    assert "1 folders of the inbox are broken" in caplog.text and "Quillfeather" not in caplog.text


def test_packed_corrections_are_refused_with_the_advice_to_unpack_them(workspace: Path, tmp_path: Path) -> None:
    from data.importing import import_folder

    table = f"{HEADING}\n{metadata_table.HASH_PREFIX}{'0' * 64},,{TASK},tumour,dr-b,2026-06-01T09:00:00Z,pathology,0\n"
    (tmp_path / "fix").mkdir()
    (tmp_path / "fix" / "metadata.csv").write_text(table, encoding="utf-8")
    shutil.make_archive(str(tmp_path / "fix"), "zip", tmp_path / "fix")
    task = params.load().tasks[TASK]
    assert ingest_corrections.import_corrections(tmp_path / "fix.zip", workspace / "inbox/fix", task) is None
    with pytest.raises(Fault, match="unpack it, and import the folder"):
        import_folder.import_folder(tmp_path / "fix.zip", workspace / "inbox/fix", task)
    assert list((workspace / "inbox").iterdir()) == []
