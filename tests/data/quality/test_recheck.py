"""Recheck of batches admitted before the current checks: defects are found, valid batches have no findings."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from data.batch import examine_scan, lesion_grid, manifest
from data.core_types import Task
from data.patients import contradictions
from data.phantom import batch as phantom_batch
from data.phantom import study
from data.quality import recheck
from data.scan import read

NEW = ("outlined", *contradictions.SIGNS, "image_type", "field_of_view", "corner_mean")  # columns since commit 892c01b


@dataclass
class Admitted:
    """An admitted batch: its folder, its task, and its folder in the inbox."""

    folder: Path
    task: Task
    inbox: Path

    def findings(self, with_source: bool = False) -> list[recheck.RecheckFinding]:
        inbox = self.inbox.parent if with_source else self.inbox.parent / "nowhere"
        return recheck.recheck({f"{self.task.name}/{self.folder.name}": (self.folder, self.task)}, inbox)

    def reasons(self, with_source: bool = False) -> dict[str, set[str]]:
        """The units of each reason with `harm`."""
        units_by_reason: dict[str, set[str]] = {}
        for finding in self.findings(with_source):
            if finding.harm:
                units_by_reason.setdefault(finding.reason, set()).update(finding.units)
        return units_by_reason

    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "manifest.csv", dtype=str, keep_default_na=False)

    def edit(self, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        change(self.table()).to_csv(self.folder / "manifest.csv", index=False, lineterminator="\n")

    def without_new_columns(self) -> Admitted:
        """Remove the columns that a manifest of commit 892c01b does not have."""
        self.edit(lambda table: table.drop(columns=[name for name in NEW if name in table]))
        return self


def admit(source: Path, task: Task) -> Admitted:
    """Index a folder as an admitted batch. Refused files stay out."""
    folder = source.parent.parent / "data" / source.name
    manifest.index_batch(source, folder, task)
    return Admitted(folder, task, source)


def stored_path(batch: Admitted, number: int = 0) -> Path:
    return batch.folder / str(batch.table()["file"].iloc[number])


def change_headers(batch: Admitted, change: Callable[[pydicom.Dataset, int], None]) -> None:
    """Change the headers of the stored copies of a batch."""
    for number, name in enumerate(dict.fromkeys(batch.table()["file"])):
        header = pydicom.dcmread(batch.folder / name)
        change(header, number)
        header.save_as(batch.folder / name)


@pytest.fixture
def dicom(batch: Path, lung: Task) -> Admitted:
    return admit(batch, lung)


def test_a_valid_batch_has_no_findings_and_is_not_changed(dicom: Admitted) -> None:
    before = {path: path.read_bytes() for path in dicom.inbox.parent.parent.rglob("*") if path.is_file()}
    assert dicom.findings() == dicom.findings(with_source=True) == []
    dicom.without_new_columns()
    before[dicom.folder / "manifest.csv"] = (dicom.folder / "manifest.csv").read_bytes()
    assert dicom.findings() == dicom.findings(with_source=True) == []
    assert {path: path.read_bytes() for path in dicom.inbox.parent.parent.rglob("*") if path.is_file()} == before


def test_a_valid_batch_of_volumes_has_no_findings(home: Path, brain: Task) -> None:
    source = home.parent / "inbox" / "volumes"
    phantom_batch.write_batch(source, brain, 3, study.usual_scanner(brain), seed=1, slices=2)
    assert admit(source, brain).without_new_columns().findings() == []


def test_an_unreadable_or_missing_stored_scan_is_found(dicom: Admitted) -> None:
    stored_path(dicom).write_bytes(b"DICM no more")
    stored_path(dicom, -1).unlink()
    reasons = dicom.reasons()
    assert any("would be refused now: is not DICOM" in reason for reason in reasons)
    assert any("can't be read (No such file or directory)" in reason for reason in reasons)


def test_units_refused_by_current_rules_are_found(dicom: Admitted) -> None:
    def mark_as_scout(header: pydicom.Dataset, number: int) -> None:
        if number == 0:
            header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    change_headers(dicom.without_new_columns(), mark_as_scout)
    units = set(dicom.table().loc[dicom.table()["file"] == dicom.table()["file"].iloc[0], "unit_id"])
    assert dicom.reasons() == {"would be refused now: it is a localizer, not a slice": units}


def test_pixels_that_are_read_differently_are_found(dicom: Admitted) -> None:
    dicom.edit(lambda table: table.assign(pixels_blake3=["0" * 64, *table["pixels_blake3"][1:]]))
    assert dicom.reasons() == {
        "its pixels are read differently now: models that learned from them saw another picture": {
            dicom.table()["unit_id"].iloc[0]
        }
    }


def test_a_missing_slice_is_found(dicom: Admitted) -> None:
    dicom.edit(lambda table: table.assign(slice=["7", *table["slice"][1:]]))
    assert list(dicom.reasons()) == ["its scan no longer has this slice"]


def test_one_person_in_two_patients_is_found_by_the_stored_copies(dicom: Admitted) -> None:
    patients = list(dict.fromkeys(dicom.table()["patient"]))

    def one_study(header: pydicom.Dataset, number: int) -> None:
        if number in (0, len(dicom.table()) - 1):
            header.StudyInstanceUID = "2.25.4711"

    change_headers(dicom.without_new_columns(), one_study)
    reasons = dicom.reasons()
    affected = dicom.table().loc[dicom.table()["patient"].isin([patients[0], patients[-1]]), "unit_id"]
    assert reasons == {
        "one person of the DICOM headers is two patients of the table: correct patient_id": set(affected)
    }


def test_identity_signs_of_two_batches_are_compared(home: Path, lung: Task) -> None:
    batches = []
    for seed, name in enumerate(("one", "two")):
        source = home.parent / "inbox" / name
        phantom_batch.write_batch(source, lung, 2, study.usual_scanner(lung), seed=seed + 1, slices=1)
        batches.append(admit(source, lung).without_new_columns())
        change_headers(batches[-1], lambda header, number: setattr(header, "StudyInstanceUID", f"2.25.{number}"))
    findings = recheck.recheck({batch.folder.name: (batch.folder, lung) for batch in batches}, home.parent / "nowhere")
    assert {finding.batch for finding in findings} == {"one", "two"}
    assert recheck.recheck({"one": (batches[0].folder, lung)}, home.parent / "nowhere") == []


@pytest.fixture
def prone(home: Path, real_data: Path, lung: Task) -> Admitted:
    """A supine, a prone and a flipped scan with outlines; old versions misplaced the last two."""
    source = home.parent / "inbox" / "prone"
    shutil.copytree(real_data / "intake-faults/prone-and-flipped", source)
    return admit(source, replace(lung, classes=("normal", "benign", "malignant"))).without_new_columns()


def test_outlines_on_scans_in_other_positions_are_found(prone: Admitted) -> None:
    reasons = prone.reasons()
    assert len(reasons) == 2 and all("its outline may be misplaced" in reason for reason in reasons)
    assert sum(map(len, reasons.values())) == 2
    supine = prone.table().set_index("sha256")["unit_id"]
    assert not any(supine[examine_scan.scan_sha256(prone.inbox / "supine.dcm")] in units for units in reasons.values())


def test_outlines_are_compared_with_the_masks_of_the_inbox(prone: Admitted) -> None:
    assert prone.findings(with_source=True) == [], "these outlines were placed by affine, so they are right"
    path = prone.folder / lesion_grid.NAME
    grids = lesion_grid.read_grids(path)
    flipped = {unit: np.ascontiguousarray(grid[::-1]) for unit, grid in grids.items()}
    lesion_grid.write_grids(path, {unit: flipped[unit] if number else grids[unit] for number, unit in enumerate(grids)})
    assert prone.reasons(with_source=True) == {
        "its outline is misplaced: by its affine the mask is elsewhere": set(list(grids)[1:])
    }


def test_masks_of_several_slices_without_an_original_give_a_hint(home: Path, brain: Task) -> None:
    source = home.parent / "inbox" / "masks"
    phantom_batch.write_batch(source, brain, 2, study.usual_scanner(brain), seed=1, slices=2, masks=True)
    batch = admit(source, brain)
    assert batch.findings() == []
    batch.without_new_columns()
    assert batch.reasons() == {} and batch.findings(), "a hint without harm"
    assert batch.findings(with_source=True) == []


def test_a_mask_with_several_values_is_found_if_it_is_in_the_inbox(home: Path, real_data: Path, brain: Task) -> None:
    import nibabel

    source = home.parent / "inbox" / "organ"
    phantom_batch.write_batch(source, brain, 2, study.usual_scanner(brain), seed=1, slices=2, masks=True)
    batch = admit(source, brain).without_new_columns()
    for path in {source / row["mask"] for row in csv.DictReader((source / "metadata.csv").open()) if row["mask"]}:
        image = nibabel.load(path)
        data = np.asarray(image.dataobj).copy()
        data[:3] = 2
        nibabel.save(nibabel.Nifti1Image(data, image.affine), path)
    assert any("besides 0; say which is the lesion" in reason for reason in batch.reasons(with_source=True))


def test_hidden_bits_of_a_stored_copy_are_found(home: Path, real_data: Path, lung: Task) -> None:
    source = home.parent / "inbox" / "overlay"
    shutil.copytree(real_data / "intake-faults/overlay-in-spare-bits/batch", source)
    batch = admit(source, lung)
    assert batch.findings() == [], "a copy of the current version has only the picture"
    original = next(path for path in source.iterdir() if path.suffix == ".dcm")
    assert read.read_scan("scan", original.read_bytes()).hides
    shutil.copyfile(original, stored_path(batch))
    assert list(batch.reasons()) == ["the stored copy has bits outside of its picture, which can contain a name"]


def test_a_shifted_table_is_found_by_its_original(home: Path, real_data: Path, lung: Task) -> None:
    source = home.parent / "inbox" / "slipped"
    shutil.copytree(real_data / "intake-faults/table-slipped-by-one-row", source)
    batch = admit(source, lung).without_new_columns()
    reasons = batch.reasons(with_source=True)
    assert list(reasons) == ["one person of the DICOM headers is two patients of the table: correct patient_id"]
    assert len(next(iter(reasons.values()))) == 8


def test_ids_that_differ_only_in_spelling_are_found_by_their_table(home: Path, real_data: Path, lung: Task) -> None:
    source = home.parent / "inbox" / "spelling"
    shutil.copytree(real_data / "intake-faults/patient-id-spelling", source)
    table = (source / "metadata.csv").read_bytes()
    with (source / "metadata.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    phantom_batch.write_metadata(source, [row | {"patient_id": f"person {index}"} for index, row in enumerate(rows)])
    batch = admit(source, lung).without_new_columns()
    (source / "metadata.csv").write_bytes(table)
    assert any("patient_id differs in its spelling alone" in reason for reason in batch.reasons(with_source=True))
