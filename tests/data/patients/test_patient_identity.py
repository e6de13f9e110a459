"""Property tests: no silent mix-up of patients for any headers and tables, and a complete import record."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel
import numpy as np
import pandas as pd
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from data.batch.metadata_table import read_metadata
from data.core_types import HeaderIdentity, Task
from data.importing.import_folder import import_folder
from data.patients import contradictions as patients_contradictions
from lineage.errors import Fault
from tests.data.scan.test_read import picture

QUICK = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SLOW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLACEHOLDERS = ("", "ANON", "0")


@st.composite
def scans(draw: st.DrawFn) -> pd.DataFrame:
    """Files of up to four people under up to five ids of a table; each header has all, some or none of its facts."""
    rows = []
    for number in range(draw(st.integers(1, 8))):
        person = draw(st.integers(0, 3))
        header = HeaderIdentity(
            patient_id=f"MRN{person}",
            name=f"Family{person}^Given",
            birth_date=f"195{person}0101",
            study=f"1.2.{person}.{draw(st.integers(0, 1))}",
            series=f"1.3.{person}.{number}",
            frame=f"1.4.{person}.1",
        )
        if draw(st.booleans()):
            header = replace(header, patient_id=draw(st.sampled_from(PLACEHOLDERS)))
        if draw(st.booleans()):
            header = replace(header, name="", birth_date="")
        patient_id = draw(
            st.sampled_from([f"T{person}", f"T{draw(st.integers(0, 4))}", f"t 0{person}", f"MRN{person}"])
        )
        cluster = draw(st.sampled_from([patient_id, patient_id, patient_id, "group"]))
        rows.append(
            {
                "unit_id": f"u{number}",
                "sha256": f"s{number}",
                "patient": patient_id,
                "cluster": cluster,
                "person": person,
            }
            | patients_contradictions.signs(patient_id, header)
        )
    return pd.DataFrame(rows)


def units_without_finding(table: pd.DataFrame, admitted: pd.DataFrame | None = None) -> pd.DataFrame:
    """The units without a finding; none if the batch has an error or a warning."""
    findings = patients_contradictions.check_identities(table, admitted)
    if findings.errors or findings.warnings:
        return table.iloc[:0]
    return table[~table["unit_id"].isin(list(findings.failing))]


def contradictions(units: pd.DataFrame) -> list[Any]:
    """People of the headers (by number, study or series) in two clusters, and patients with two header numbers."""
    split_people = [
        sign
        for name in ("header_patient", "header_study", "header_series")
        for sign, rows in units[units[name] != ""].groupby(name)
        if rows["cluster"].nunique() > 1 and rows["patient"].nunique() > 1
    ]
    numbered = units[units["header_patient"] != ""]
    return split_people + [key for key, rows in numbered.groupby("patient") if rows["header_patient"].nunique() > 1]


@QUICK
@given(scans())
def test_no_mix_up_of_patients_within_a_batch_is_silent(table: pd.DataFrame) -> None:
    assert not contradictions(units_without_finding(table))


@QUICK
@given(scans(), scans())
def test_no_mix_up_of_patients_across_batches_is_silent(first: pd.DataFrame, second: pd.DataFrame) -> None:
    admitted = units_without_finding(first)
    assume(len(admitted) and not contradictions(admitted))
    second = second.assign(unit_id="n" + second["unit_id"], sha256="n" + second["sha256"])
    assert not contradictions(pd.concat([admitted, units_without_finding(second, admitted)], ignore_index=True))


@QUICK
@given(scans())
def test_a_correct_table_is_never_contradicted(table: pd.DataFrame) -> None:
    correct = table.assign(patient="P" + table["person"].astype(str), cluster="P" + table["person"].astype(str))
    correct["spelling"] = "id p" + table["person"].astype(str)
    findings = patients_contradictions.check_identities(correct)
    assert not findings.failing and not findings.errors


NAMES = ("a.png", "b.png", "a_mask.png", "x.txt", "empty.png", "._a.png", ".DS_Store", "Thumbs.db", "c.nii.gz")
FOLDERS = ("no_tumour", "tumour", "tumour/p1", "no_tumour/p2", "images/tumour", "__MACOSX", "p1/tumour", "other", "")


@st.composite
def trees(draw: st.DrawFn) -> dict[str, str]:
    """Paths below a folder, each with the kind of file."""
    tree: dict[str, str] = {}
    for folder in draw(st.lists(st.sampled_from(FOLDERS), min_size=1, max_size=3, unique=True)):
        for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True)):
            kind = draw(st.sampled_from(["file", "file", "file", "link outside", "link inside"]))
            tree[str(PurePosixPath(folder, name))] = kind
    return tree


def write_tree(root: Path, tree: dict[str, str]) -> Path:
    """Write the tree to disk, with different pictures; returns its root."""
    source, disk = root / "set", root / "disk"
    disk.mkdir(parents=True)
    first_file = ""
    for number, (name, kind) in enumerate(tree.items()):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.random.default_rng(number).integers(0, 255, (16, 16)).astype(np.uint8)
        content = picture(grey * (255 if "mask" in name else 1)) if name.endswith(".png") else name.encode()
        content = b"" if "empty" in name else content
        if kind == "file" or (kind == "link inside" and not first_file):
            path.write_bytes(content)
            first_file = first_file or name
        elif kind == "link inside":
            path.symlink_to(source / first_file)
        else:
            (disk / str(number)).write_bytes(content)
            path.symlink_to(disk / str(number))
    return source


def file_count(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def check_record(source: Path, target: Path, record: dict[str, Any]) -> None:
    """Check that every file of the folder is copied, read, passed over, or left out by its name and reason."""
    assert record == json.loads((target / "import.json").read_text())
    left_out, passed_over = record.get("left_out", {}), record.get("passed_over", {})
    assert record["files_found"] == file_count(source)
    used = record["files_copied"] + len(record["tables_read"])
    assert record["files_found"] == used + len(left_out) + sum(passed_over.values())
    assert file_count(target) == record["files_copied"] + 2 and all(
        left_out.values()
    )  # the batch's own table and record
    assert not [path for path in target.rglob("*") if path.is_symlink()]
    rows = read_metadata(target)
    assert not rows["file_name"].str.contains(r"mask|\._|DS_Store|Thumbs", regex=True).any()


@SLOW
@given(trees(), st.sampled_from([None, 0, 1, 2]), st.sampled_from([None, "a*", "*.png"]))
def test_every_file_of_class_folders_is_in_the_record(
    brain: Task, tree: dict[str, str], level: int | None, only: str | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, target = write_tree(Path(folder), tree), Path(folder) / "batch"
        try:
            record = import_folder(source, target, brain, only=only, patient_level=level)
        except Fault:
            assert not target.exists()
            return
        check_record(source, target, record)


@SLOW
@given(trees(), st.integers(0, 3), st.sampled_from([None, "a*"]))
def test_every_file_beside_a_table_is_in_the_record(
    brain: Task, tree: dict[str, str], skipped: int, only: str | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, target = write_tree(Path(folder), tree), Path(folder) / "batch"
        names = [name for name, kind in tree.items() if kind == "file" and name.endswith("a.png") and "._" not in name]
        rows = [f"{name},P{number},brain-mr,tumour" for number, name in enumerate(names[skipped:])]
        (source / "metadata.csv").write_text("\n".join(["file_name,patient_id,task,label", *rows]) + "\n")
        try:
            record = import_folder(source, target, brain, only=only)
        except Fault:
            return
        check_record(source, target, record)


@SLOW
@given(
    st.lists(
        st.tuples(st.sampled_from(["p1", "p2", "p1/a", ""]), st.sampled_from(["T1", "T2"]), st.sampled_from("smjl")),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([None, "T1*"]),
)
def test_every_file_of_volumes_is_in_the_record(
    brain: Task, paths: list[tuple[str, str, str]], level: int | None, only: str | None
) -> None:
    """A scan (s), a mask (m), a text (j) or a link to a volume elsewhere (l) in each place."""
    grid = np.zeros((6, 6, 3), np.int16)
    grid[2:4, 2:4, 1] = 1
    contents = {
        kind: gzip.compress(nibabel.Nifti1Image(voxels.astype(np.int16), np.eye(4)).to_bytes(), mtime=0)
        for kind, voxels in (
            ("s", np.arange(108).reshape(6, 6, 3)),
            ("m", grid),
            ("l", np.ones((6, 6, 3)) - grid),
        )
    }
    endings = {"s": "_scan.nii.gz", "m": "_mask.nii.gz", "j": ".txt", "l": "_scan.nii.gz"}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "set", Path(folder) / "batch"
        for number, (parent, stem, kind) in enumerate(paths):
            path = source / parent / f"{stem}{endings[kind]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "l" and not path.exists():
                (Path(folder) / f"elsewhere{number}").write_bytes(contents["l"])
                path.symlink_to(Path(folder) / f"elsewhere{number}")
            elif not path.is_symlink():
                path.write_bytes(contents.get(kind, b"text"))
        try:
            record = import_folder(source, target, brain, only=only, patient_level=level)
        except Fault:
            return
        check_record(source, target, record)
