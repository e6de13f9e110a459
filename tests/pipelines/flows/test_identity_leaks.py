"""Identities planted in every place of a batch are found in no byte that an ingest writes."""

from __future__ import annotations

import csv
import gzip
import json
import re
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from data.phantom import batch, files
from data.phantom import study as phantom_study
from pipelines import params
from tests.pipelines.conftest import Run
from tests.pipelines.planted_identities import (
    BORN,
    FILE,
    GIVEN,
    MRN,
    NAME,
    SECRETS,
    dicom_bytes,
    dicom_with_identity,
    dicom_with_text_after_frame,
    dicom_with_text_in_padding,
    dicom_with_used_spare_bits,
    files_below,
    jpeg_with_identity,
    nifti_with_identity,
    read_dicom,
    search,
    unpacked_files_below,
    zipped,
)

HIDDEN = (
    (
        "spare",
        dicom_with_used_spare_bits,
        (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless),
    ),
    ("behind", dicom_with_text_after_frame, (JPEGBaseline8Bit, RLELossless, JPEG2000Lossless)),
)


def scan(number: int, index: int = 0) -> bytes:
    """A slice of a patient who is in no batch yet, with the identity in its header."""
    task = params.load().task("lung-ct")
    study = phantom_study.make_study(task, phantom_study.usual_scanner(task), 31, number, task.classes[0])
    pixels, pixel = study.slice(index, 2)
    return dicom_with_identity(files.dicom(study, pixels, pixel, index))


def lung_batch(folder: Path) -> None:
    """Valid scans, scans with the identity in every place, and a scan with the identity for every kind of refusal."""
    task = params.load().task("lung-ct")
    batch.write_batch(folder, task, 18, phantom_study.usual_scanner(task), seed=31, slices=4)
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    first_slice, second_slice = scan(500), scan(500, 1)
    odd_spacing = read_dicom(first_slice)
    odd_spacing[0x00280030] = pydicom.DataElement(0x00280030, "LO", f"{NAME} {MRN}")  # PixelSpacing
    without_preamble = scan(521)[132:]
    valid = {
        f"{FILE}_1.dcm": scan(501),
        f"{FILE}.zip": zipped(first_slice, second_slice),
        f"{FILE}.jpg": jpeg_with_identity(),
        f"{FILE}_turned.jpg": jpeg_with_identity(6),
        f"{FILE}_padded.dcm": dicom_with_text_in_padding(scan(520)),
        f"{FILE}_bare.dcm": without_preamble,
    }
    valid |= {
        f"{FILE}_{place}_{number}.dcm": write(scan(530 + 10 * number + kind), syntax)
        for kind, (place, write, syntaxes) in enumerate(HIDDEN)
        for number, syntax in enumerate(syntaxes)
    }
    broken = {
        f"{FILE}_cut.dcm": first_slice[:3000],
        f"{FILE}_text.dcm": f"{NAME} {MRN}".encode() * 40,
        f"{FILE}_odd.dcm": dicom_bytes(odd_spacing),
        f"{FILE}_cut.jpg": jpeg_with_identity()[:900],
        f"{FILE}_cut.nii.gz": gzip.compress(f"{NAME} {MRN}".encode() * 99),
        f"{FILE}_cut.zip": zipped(first_slice, second_slice)[:-60],
    }
    cells: list[dict[str, str]] = [
        {"site": f"ward of {NAME}"},
        {"label": NAME},
        {"sex": NAME},
        {"study_date": BORN[:4] + NAME},
        {"age": MRN},
        {"slice": NAME},
        {"labeller": f"told by {GIVEN} {NAME}"},
        {"truth": NAME},
        {"lesion_mm": MRN},
    ]
    odd_rows = [(f"{FILE}_cell{number}.dcm", cell) for number, cell in enumerate(cells)]
    odd_row_scans = {name: scan(510 + number) for number, (name, _) in enumerate(odd_rows)}
    for name, content in (valid | broken | odd_row_scans).items():
        (folder / name).write_bytes(content)
    planted_row = rows[0] | {"label": task.classes[0], "patient_id": f"{NAME}, {GIVEN} {MRN}", "lesion_mm": ""}
    rows += [planted_row | {"file_name": name} for name in valid | broken]
    rows += [planted_row | {"file_name": name} | cell for name, cell in odd_rows]
    batch.write_metadata(folder, rows)


def brain_batch(folder: Path) -> None:
    task = params.load().task("brain-mr")
    batch.write_batch(folder, task, 6, phantom_study.usual_scanner(task), seed=32, slices=2)
    path = sorted(folder.glob("*.nii.gz"))[0]
    path.with_name(f"{FILE}.nii.gz").write_bytes(nifti_with_identity(path.read_bytes()))
    table = (folder / "metadata.csv").read_text(encoding="utf-8")
    number = next(row.split(",")[1] for row in table.splitlines() if row.startswith(path.name))
    (folder / "metadata.csv").write_text(table.replace(path.name, f"{FILE}.nii.gz").replace(number, MRN))
    path.unlink()


def failing_batch(folder: Path) -> None:
    """A batch that is refused: unknown labels, and file names that hold a patient's name."""
    task = params.load().task("lung-ct")
    batch.write_batch(folder, task, 2, phantom_study.usual_scanner(task), seed=33)
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows):
        (folder / row["file_name"]).rename(folder / f"{FILE}_{number}.dcm")
    renamed_rows = [row | {"file_name": f"{FILE}_{number}.dcm", "label": MRN} for number, row in enumerate(rows)]
    batch.write_metadata(folder, renamed_rows)


def test_no_planted_identity_is_written_anywhere(
    tmp_path: Path, oncoloop: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, inbox = tmp_path / "ward", tmp_path / "ward" / "inbox"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert oncoloop("init", str(workspace), cwd=tmp_path).returncode == 0
    monkeypatch.chdir(workspace)
    for make, name in ((lung_batch, "spring"), (brain_batch, "summer"), (failing_batch, "autumn")):
        make(inbox / name)
    results = [oncoloop("ingest", "--json", cwd=workspace)]
    broken_folder = inbox / "winter"
    failing_batch(broken_folder)
    with (broken_folder / "metadata.csv").open("a", encoding="utf-8") as stream:
        stream.write(f"{FILE}_missing.dcm" + f",{MRN},lung-ct,=normal" + ",x" * 10 + "\n")
    results += [
        oncoloop("ingest", str(broken_folder), cwd=workspace),
        oncoloop("withdraw", MRN, "--reason", "asked", cwd=workspace),
        oncoloop("ingest", "inbox/spring", "--label", "x", cwd=workspace),
        oncoloop("status", cwd=workspace),
    ]
    assert results[0].returncode == 3, results[0].stderr
    batches = json.loads(results[0].stdout)["batches"]
    outcomes = {entry["batch"]: entry["verdict"]["outcome"] for entry in batches}
    assert outcomes == {"autumn": "fail", "spring": "pass", "summer": "pass"}
    reasons = "\n".join(batches[1]["verdict"]["reasons"])
    assert re.search(r"row \d+, sha256 [0-9a-f]{8} \(", reasons), reasons
    hidden_count = sum(len(syntaxes) for _, _, syntaxes in HIDDEN)
    assert len(list((workspace / "data/batches/lung-ct/spring/scans").iterdir())) >= 72 + hidden_count + 4, reasons

    for number, result in enumerate(results):
        (tmp_path / f"said-{number}.txt").write_text(result.stdout + result.stderr, encoding="utf-8")
    planted = search(unpacked_files_below(inbox))
    places = {name for _, name in planted if "(" in name}
    for number in range(4):
        assert f"{FILE}_spare_{number}.dcm (spare bits)" in places
    assert f"{FILE}_padded.dcm (low bytes)" in places
    assert {secret for secret, _ in planted} >= set(SECRETS) - {"1963-07-17"}
    assert search(files_below(tmp_path, inbox)) == set()
