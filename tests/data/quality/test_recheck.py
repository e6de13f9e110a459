"""Batches admitted before today's checks: the harmed ones are named, sound ones are not, and nothing changes."""

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

from data.batch import lesion_grid, manifest
from data.patients import contradictions
from data.phantom import batch as phantom_batch
from data.phantom import study
from data.quality import recheck
from data.record import Task
from data.scan import read

NEW = ("outlined", *contradictions.SIGNS, "image_type", "field_of_view", "corner_mean")  # columns since commit 892c01b


@dataclass
class Admitted:
    """A batch as its folder lies below data/batches, and the folder of the inbox that it came from."""

    folder: Path
    task: Task
    inbox: Path

    def found(self, with_source: bool = False) -> list[recheck.Finding]:
        inbox = self.inbox.parent if with_source else self.inbox.parent / "nowhere"
        return recheck.recheck({f"{self.task.name}/{self.folder.name}": (self.folder, self.task)}, inbox)

    def reasons(self, with_source: bool = False) -> dict[str, set[str]]:
        """The units of each reason for harm."""
        told: dict[str, set[str]] = {}
        for finding in self.found(with_source):
            if finding.harm:
                told.setdefault(finding.reason, set()).update(finding.units)
        return told

    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "manifest.csv", dtype=str, keep_default_na=False)

    def edit(self, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        change(self.table()).to_csv(self.folder / "manifest.csv", index=False, lineterminator="\n")

    def made_before(self) -> Admitted:
        """With the columns of a manifest that was written at commit 892c01b."""
        self.edit(lambda table: table.drop(columns=[name for name in NEW if name in table]))
        return self


def admit(source: Path, task: Task) -> Admitted:
    """Index a folder; what is refused stays out, as at an admission."""
    folder = source.parent.parent / "data" / source.name
    manifest.index_batch(source, folder, task)
    return Admitted(folder, task, source)


def stored(batch: Admitted, number: int = 0) -> Path:
    return batch.folder / str(batch.table()["file"].iloc[number])


def headers(batch: Admitted, change: Callable[[pydicom.Dataset, int], None]) -> None:
    """Change the headers of the stored copies of a batch."""
    for number, name in enumerate(dict.fromkeys(batch.table()["file"])):
        header = pydicom.dcmread(batch.folder / name)
        change(header, number)
        header.save_as(batch.folder / name)


@pytest.fixture
def dicom(batch: Path, lung: Task) -> Admitted:
    return admit(batch, lung)


def test_a_sound_batch_is_named_by_nothing_and_nothing_is_written(dicom: Admitted) -> None:
    before = {path: path.read_bytes() for path in dicom.inbox.parent.parent.rglob("*") if path.is_file()}
    assert dicom.found() == dicom.found(with_source=True) == []
    dicom.made_before()
    before[dicom.folder / "manifest.csv"] = (dicom.folder / "manifest.csv").read_bytes()
    assert dicom.found() == dicom.found(with_source=True) == []
    assert {path: path.read_bytes() for path in dicom.inbox.parent.parent.rglob("*") if path.is_file()} == before


def test_a_sound_batch_of_pictures_and_of_volumes_is_named_by_nothing(home: Path, brain: Task) -> None:
    source = home.parent / "inbox" / "volumes"
    phantom_batch.write_batch(source, brain, 3, study.usual(brain), seed=1, slices=2)
    assert admit(source, brain).made_before().found() == []


def test_a_stored_scan_that_cannot_be_read_or_is_gone_is_named(dicom: Admitted) -> None:
    stored(dicom).write_bytes(b"DICM no more")
    stored(dicom, -1).unlink()
    reasons = dicom.reasons()
    assert any("is refused today: is not DICOM" in reason for reason in reasons)
    assert any("can't be read (No such file or directory)" in reason for reason in reasons)


def test_what_the_rules_refuse_today_is_named(dicom: Admitted) -> None:
    def scout(header: pydicom.Dataset, number: int) -> None:
        if number == 0:
            header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    headers(dicom.made_before(), scout)
    units = set(dicom.table().loc[dicom.table()["file"] == dicom.table()["file"].iloc[0], "unit_id"])
    assert dicom.reasons() == {"is refused today: it is a localizer, not a slice": units}


def test_pixels_that_are_read_otherwise_are_named(dicom: Admitted) -> None:
    dicom.edit(lambda table: table.assign(pixels_blake3=["0" * 64, *table["pixels_blake3"][1:]]))
    assert dicom.reasons() == {
        "its pixels are read otherwise today: what learned from them saw another picture": {
            dicom.table()["unit_id"].iloc[0]
        }
    }


def test_a_slice_that_is_no_longer_there_is_named(dicom: Admitted) -> None:
    dicom.edit(lambda table: table.assign(slice=["7", *table["slice"][1:]]))
    assert list(dicom.reasons()) == ["its slice is no longer one of the scan's"]


def test_two_people_in_one_and_one_in_two_are_named_by_what_the_copies_show(dicom: Admitted) -> None:
    names = list(dict.fromkeys(dicom.table()["patient"]))

    def one_study(header: pydicom.Dataset, number: int) -> None:
        if number in (0, len(dicom.table()) - 1):
            header.StudyInstanceUID = "2.25.4711"

    headers(dicom.made_before(), one_study)
    reasons = dicom.reasons()
    concerned = dicom.table().loc[dicom.table()["patient"].isin([names[0], names[-1]]), "unit_id"]
    assert reasons == {
        "one person of the DICOM headers is two patients of the table: correct patient_id": set(concerned)
    }


def test_signs_of_two_batches_are_compared(home: Path, lung: Task) -> None:
    made = []
    for seed, name in enumerate(("one", "two")):
        source = home.parent / "inbox" / name
        phantom_batch.write_batch(source, lung, 2, study.usual(lung), seed=seed + 1, slices=1)
        made.append(admit(source, lung).made_before())
        headers(made[-1], lambda header, number: setattr(header, "StudyInstanceUID", f"2.25.{number}"))
    found = recheck.recheck({batch.folder.name: (batch.folder, lung) for batch in made}, home.parent / "nowhere")
    assert {finding.batch for finding in found} == {"one", "two"}
    assert recheck.recheck({"one": (made[0].folder, lung)}, home.parent / "nowhere") == []


@pytest.fixture
def prone(home: Path, real_data: Path, lung: Task) -> Admitted:
    """One supine, one prone and one flipped scan with outlines, of which the last two were laid wrongly then."""
    source = home.parent / "inbox" / "prone"
    shutil.copytree(real_data / "intake-faults/prone-and-flipped", source)
    return admit(source, replace(lung, classes=("normal", "benign", "malignant"))).made_before()


def test_outlines_on_scans_in_other_positions_are_named(prone: Admitted) -> None:
    reasons = prone.reasons()
    assert len(reasons) == 2 and all("its outline may lie beside the lesion" in reason for reason in reasons)
    assert sum(map(len, reasons.values())) == 2
    supine = prone.table().set_index("sha256")["unit_id"]
    assert not any(supine[manifest.scan_sha256(prone.inbox / "supine.dcm")] in units for units in reasons.values())


def test_the_masks_of_the_inbox_settle_where_outlines_lie(prone: Admitted) -> None:
    assert prone.found(with_source=True) == [], "laid by affine, as these were, they are right"
    path = prone.folder / lesion_grid.NAME
    grids = lesion_grid.read_grids(path)
    turned = {unit: np.ascontiguousarray(grid[::-1]) for unit, grid in grids.items()}
    lesion_grid.write(path, {unit: turned[unit] if number else grids[unit] for number, unit in enumerate(grids)})
    assert prone.reasons(with_source=True) == {
        "its outline lies beside the lesion: by its affine the mask lies elsewhere": set(list(grids)[1:])
    }


def test_masks_of_several_slices_are_a_hint_where_their_source_is_gone(home: Path, brain: Task) -> None:
    source = home.parent / "inbox" / "masks"
    phantom_batch.write_batch(source, brain, 2, study.usual(brain), seed=1, slices=2, masks=True)
    batch = admit(source, brain)
    assert batch.found() == []
    batch.made_before()
    assert batch.reasons() == {} and batch.found(), "a hint, no harm"
    assert batch.found(with_source=True) == []


def test_a_mask_with_several_values_is_named_where_the_inbox_still_has_it(
    home: Path, real_data: Path, brain: Task
) -> None:
    import nibabel

    source = home.parent / "inbox" / "organ"
    phantom_batch.write_batch(source, brain, 2, study.usual(brain), seed=1, slices=2, masks=True)
    batch = admit(source, brain).made_before()
    for path in {source / row["mask"] for row in csv.DictReader((source / "metadata.csv").open()) if row["mask"]}:
        image = nibabel.load(path)
        data = np.asarray(image.dataobj).copy()
        data[:3] = 2
        nibabel.save(nibabel.Nifti1Image(data, image.affine), path)
    assert any("besides 0; say which is the lesion" in reason for reason in batch.reasons(with_source=True))


def test_what_a_stored_copy_hides_is_named(home: Path, real_data: Path, lung: Task) -> None:
    source = home.parent / "inbox" / "overlay"
    shutil.copytree(real_data / "intake-faults/overlay-in-spare-bits/batch", source)
    batch = admit(source, lung)
    assert batch.found() == [], "today's copy holds nothing but the picture"
    original = next(path for path in source.iterdir() if path.suffix == ".dcm")
    assert read.read("scan", original.read_bytes()).hides
    shutil.copyfile(original, stored(batch))
    assert list(batch.reasons()) == ["the stored copy holds bits that no picture shows, in which a name may be written"]


def test_a_table_that_slipped_is_named_by_its_source(home: Path, real_data: Path, lung: Task) -> None:
    source = home.parent / "inbox" / "slipped"
    shutil.copytree(real_data / "intake-faults/table-slipped-by-one-row", source)
    batch = admit(source, lung).made_before()
    reasons = batch.reasons(with_source=True)
    assert list(reasons) == ["one person of the DICOM headers is two patients of the table: correct patient_id"]
    assert len(next(iter(reasons.values()))) == 8


def test_ids_that_differ_in_spelling_alone_are_named_by_their_table(home: Path, real_data: Path, lung: Task) -> None:
    source = home.parent / "inbox" / "spelling"
    shutil.copytree(real_data / "intake-faults/patient-id-spelling", source)
    table = (source / "metadata.csv").read_bytes()
    with (source / "metadata.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    phantom_batch.write_metadata(source, [row | {"patient_id": f"person {place}"} for place, row in enumerate(rows)])
    batch = admit(source, lung).made_before()
    (source / "metadata.csv").write_bytes(table)
    assert any("patient_id differs in its spelling alone" in reason for reason in batch.reasons(with_source=True))
