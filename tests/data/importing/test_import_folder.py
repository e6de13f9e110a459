from __future__ import annotations

import json
import shutil
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from data.batch.manifest import index_batch, read_metadata
from data.core_types import Task
from data.importing.import_folder import import_folder
from data.phantom import study
from data.quality.gate import admit
from data.quality.leakage import check_leakage
from data.quality.suite import Validation
from data.settings import IngestSettings
from lineage import fingerprint
from lineage.errors import Fault

CLEAN = Validation(True, (), [], [], Path("page"), {})


@pytest.fixture
def classes(tmp_path: Path, lung: Task) -> Path:
    """A folder for each class with pictures of two patients, three of each, which differ only by noise."""
    random = np.random.default_rng(0)
    for label in lung.classes:
        for person in range(2):
            number = 10 * lung.classes.index(label) + person
            plane, _ = study.make_study(lung, study.usual_scanner(lung), 5, number, label).slice(0, 1)
            grey = np.clip((plane.astype(np.float32) + 1150) / 1500 * 255, 0, 255)
            for copy in range(3):
                path = tmp_path / "set" / label.capitalize() / f"{label} ({person}-{copy}).png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noisy = np.clip(grey + random.normal(0, 1, grey.shape), 0, 255)
                Image.fromarray(noisy.astype(np.uint8)).save(path)
    return tmp_path / "set"


def test_a_folder_for_each_class_becomes_a_batch_of_pseudo_patients(classes: Path, tmp_path: Path, lung: Task) -> None:
    record = import_folder(classes, tmp_path / "batch", lung, site="S1")
    table = read_metadata(tmp_path / "batch")
    assert record["files"] == len(table) == 18 and record["clusters"] == table["group"].nunique() == 6
    assert record["patients_from"].startswith("near-duplicates")
    person = table["file_name"].str.replace(r"-\d\)\.png", "", regex=True)
    assert (table.groupby(person)["group"].nunique() == 1).all()
    assert set(table["truth"]) == {"reader"} and set(table["site"]) == {"S1"}
    assert set(table["label"]) == set(lung.classes)
    assert json.loads((tmp_path / "batch" / "import.json").read_text()) == record


def test_small_groups_are_called_unreliable(
    classes: Path, tmp_path: Path, lung: Task, caplog: pytest.LogCaptureFixture
) -> None:
    """A set with one picture per patient looks like one without near-duplicates; complete groups give no warning."""
    assert "warning" not in import_folder(classes, tmp_path / "whole", lung)
    record = import_folder(classes, tmp_path / "batch", lung, only="*-0).png")
    warning = "the groups are unreliable: 100% of the scans are in a group of one or two"
    assert record["clusters"] == 6 and record["warning"].startswith(warning)
    assert json.loads((tmp_path / "batch" / "import.json").read_text())["warning"] == record["warning"]
    assert warning in caplog.text


def test_groups_csv_gives_the_groups(classes: Path, tmp_path: Path, lung: Task) -> None:
    (classes / "images").mkdir()
    for folder in [path for path in classes.iterdir() if path.name != "images"]:
        shutil.move(folder, classes / "images" / folder.name)
    names = sorted(path.relative_to(classes / "images").as_posix() for path in classes.glob("images/*/*"))
    groups = [name.split("(")[1][0] for name in names]  # every class has pictures of both groups
    table = pd.DataFrame({"file": names, "label": [name.split("/")[0].lower() for name in names], "group": groups})
    table.to_csv(classes / "groups.csv", index=False)
    record = import_folder(classes, tmp_path / "batch", lung)
    assert (record["clusters"], record["clusters_with_two_labels"]) == (2, 2)
    assert record["patients_from"] == "groups.csv"

    table.iloc[1:].to_csv(classes / "groups.csv", index=False)
    with pytest.raises(Fault, match="is not in it exactly once"):
        import_folder(classes, tmp_path / "other", lung)
    table.assign(label="malignant").to_csv(classes / "groups.csv", index=False)
    with pytest.raises(Fault, match="'malignant' there and in the folder 'benign'"):
        import_folder(classes, tmp_path / "other", lung)
    assert not (tmp_path / "other").exists()


def test_dicom_headers_give_the_patients(batch: Path, tmp_path: Path, lung: Task) -> None:
    table = pd.read_csv(batch / "metadata.csv", dtype=str)
    for name, label in table[["file_name", "label"]].itertuples(index=False):
        (tmp_path / "set" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(batch / name, tmp_path / "set" / label / name)
    record = import_folder(tmp_path / "set", tmp_path / "batch", lung)
    assert record["patients_from"] == "DICOM headers"
    assert set(read_metadata(tmp_path / "batch")["patient_id"]) == set(table["patient_id"])


def test_a_ready_batch_is_imported_as_it_is(batch: Path, tmp_path: Path, lung: Task, brain: Task) -> None:
    record = import_folder(batch, tmp_path / "batch", lung, only="scan-000[01]*")
    assert record["layout"] == "metadata.csv" and record["files"] == 4
    assert set(read_metadata(tmp_path / "batch")["truth"]) <= {"pathology", "follow-up"}
    with pytest.raises(Fault, match="belong to the task lung-ct, not brain-mr"):
        import_folder(batch, tmp_path / "other", brain)


def test_an_interrupted_import_is_repeated_and_a_finished_one_is_not_replaced(
    classes: Path, tmp_path: Path, lung: Task
) -> None:
    target = tmp_path / "batch"
    target.mkdir()
    (target / "metadata.csv.part").write_text("half")
    (target / "stale.png").write_bytes(b"x")
    import_folder(classes, target, lung)
    assert not (target / "stale.png").exists() and len(read_metadata(target)) == 18
    with pytest.raises(Fault, match="exists already"):
        import_folder(classes, target, lung)


def test_folders_of_any_name_are_classes_by_option(classes: Path, tmp_path: Path, lung: Task) -> None:
    (classes / "Malignant").rename(classes / "Squamous carcinoma")
    with pytest.raises(Fault, match=r"'Squamous carcinoma' is none .* add for example --label 'Squamous carcinoma'="):
        import_folder(classes, tmp_path / "batch", lung)
    record = import_folder(classes, tmp_path / "batch", lung, class_names={"squamous_carcinoma": "malignant"})
    table = read_metadata(tmp_path / "batch")
    assert record["class_names"] == {"squamous_carcinoma": "malignant"}
    assert set(table["label"]) == set(lung.classes)


def test_all_folders_that_are_no_class_are_named_at_once(classes: Path, tmp_path: Path, lung: Task) -> None:
    for name in ("one", "two"):
        (classes / name).mkdir()
        next((classes / "Malignant").iterdir()).rename(classes / name / f"{name}.png")
    with pytest.raises(Fault, match="'one', 'two' are none of the classes"):
        import_folder(classes, tmp_path / "batch", lung)


@pytest.mark.parametrize(
    ("class_names", "message"),
    [({"tumour": "cancer"}, "'cancer' is none of the classes"), ({"benign": "malignant"}, "keeps its meaning")],
)
def test_a_wrong_class_of_a_folder_is_refused(
    classes: Path, tmp_path: Path, lung: Task, class_names: dict[str, str], message: str
) -> None:
    with pytest.raises(Fault, match=message):
        import_folder(classes, tmp_path / "batch", lung, class_names=class_names)


def test_wrong_folders_and_options_are_refused(classes: Path, tmp_path: Path, lung: Task) -> None:
    with pytest.raises(Fault, match="is not a folder"):
        import_folder(tmp_path / "nowhere", tmp_path / "batch", lung)
    with pytest.raises(Fault, match=r"no scan whose name matches 'x\*'"):
        import_folder(classes, tmp_path / "batch", lung, only="x*")
    with pytest.raises(Fault, match="truth 'hearsay' is none of pathology"):
        import_folder(classes, tmp_path / "batch", lung, truth="hearsay")
    (classes / "unsure").mkdir()
    with pytest.raises(Fault, match="'unsure' is none of the classes of lung-ct"):
        import_folder(classes, tmp_path / "batch", lung)


def test_real_volumes_are_labelled_by_their_masks(real_data: Path, tmp_path: Path, brain: Task) -> None:
    slices = pd.read_csv(real_data / "brain-mr-tumor-progression" / "slices.csv", dtype={"patient": str})
    slices = slices[(slices["timepoint"] == "Pre") & (slices["blank"] == 0)]
    record = import_folder(real_data / "brain-mr-tumor-progression", tmp_path / "pre", brain, only="Pre*")
    table = read_metadata(tmp_path / "pre")
    assert record["blank_slices_left_out"] == 28 and record["clusters"] == 7
    label_by_slice = table.astype({"slice": int}).set_index(["patient_id", "slice"])["label"]
    assert label_by_slice.to_dict() == slices.set_index(["patient", "slice"])["label"].to_dict()
    assert ((table["lesion_mm"] != "") == (table["label"] == "tumour")).all()


def test_masks_are_never_paired_by_position(real_data: Path, tmp_path: Path, brain: Task, lung: Task) -> None:
    source = tmp_path / "set" / "01"
    source.mkdir(parents=True)
    for name in ("Pre_Scan_T1.nii.gz", "Pre_Mask.nii.gz"):
        shutil.copy(real_data / "brain-mr-tumor-progression" / "01" / name, source / name)
    with pytest.raises(Fault, match="two classes, one positive"):
        import_folder(source.parent, tmp_path / "batch", lung)
    (source / "Pre_Mask.nii.gz").rename(source / "Post_Mask.nii.gz")
    with pytest.raises(Fault, match="0 masks match its name"):
        import_folder(source.parent, tmp_path / "batch", brain)


@pytest.mark.usefixtures("home")
def test_the_real_lung_set_loses_only_its_exact_copies(
    real_data: Path, tmp_path: Path, lung: Task, ingest: IngestSettings
) -> None:
    source = real_data / "lung-ct-iq-oth-nccd"
    groups = pd.read_csv(source / "groups.csv", dtype=str)
    copies = groups[groups["sha256"].duplicated(keep=False)]
    mixed = groups[groups["group"].isin(groups.groupby("group")["label"].nunique().loc[lambda n: n > 1].index)]
    record = import_folder(source, tmp_path / "lung", lung)
    assert (record["files"], record["clusters"], record["clusters_with_two_labels"]) == (857, 91, 1)

    selected = pd.concat([copies, mixed, groups.iloc[::12]])["file"].drop_duplicates()
    table = pd.read_csv(tmp_path / "lung" / "metadata.csv", dtype=str)
    table[table["file_name"].isin(selected)].to_csv(tmp_path / "lung" / "metadata.csv", index=False)
    indexed = index_batch(tmp_path / "lung", tmp_path / "staging", replace(lung, pixels=replace(lung.pixels, size=128)))
    findings = check_leakage(indexed.manifest, pd.DataFrame(), ingest)
    assert not indexed.refused and len(findings.failing) == 28
    assert all(reasons[0].startswith("exact copy: ") for reasons in findings.failing.values())
    assert findings.figures["near_duplicates"] == 0 and findings.figures["mixed_clusters"] == 1
    verdict, _ = admit("lung", CLEAN, findings, indexed.refused, 857, ingest)
    assert verdict.reasons[0] == "829 of 857 units are admitted, 28 stay out"


def dicom_classes(root: Path, batch: Path) -> pd.DataFrame:
    """Write class folders with a folder per patient that holds the slices; returns the rows of the batch."""
    table = pd.read_csv(batch / "metadata.csv", dtype=str)
    for row in table.itertuples():
        folder_ = root / row.label / row.patient_id
        folder_.mkdir(parents=True, exist_ok=True)
        shutil.copy(batch / row.file_name, folder_ / row.file_name)
    return table


def test_the_slices_of_a_series_become_one_scan(batch: Path, tmp_path: Path, lung: Task) -> None:
    rows = dicom_classes(tmp_path / "set", batch)
    record = import_folder(tmp_path / "set", tmp_path / "batch", lung)
    table = read_metadata(tmp_path / "batch")
    assert record["series"] == record["files"] == record["clusters"] == 6 and "left_out" not in record
    assert table["file_name"].str.contains("/series-").all()
    assert set(table["patient_id"]) == set(rows["patient_id"])
    indexed = index_batch(tmp_path / "batch", tmp_path / "staging", lung)
    assert len(indexed.manifest) == 12 and not indexed.refused
    assert sorted(indexed.manifest["slice"]) == [0] * 6 + [1] * 6


def test_a_slice_exported_twice_is_imported_once(batch: Path, tmp_path: Path, lung: Task) -> None:
    dicom_classes(tmp_path / "set", batch)
    first = sorted((tmp_path / "set").glob("*/*/*.dcm"))[0]
    second_export = pydicom.dcmread(first)
    second_export.ContentTime = "235959"
    second_export.save_as(first.with_name("zz again.dcm"))
    record = import_folder(tmp_path / "set", tmp_path / "batch", lung)
    name = first.relative_to(tmp_path / "set").as_posix()
    assert list(record["left_out"].values()) == [f"is a copy of {name} in the same series"]
    assert record["series"] == 6


def test_files_that_are_no_scan_are_left_out_with_a_reason(batch: Path, tmp_path: Path, lung: Task) -> None:
    dicom_classes(tmp_path / "set", batch)
    folder = next(path for path in (tmp_path / "set").glob("*/*"))
    (folder / "readme.txt").write_text("no scan")
    (folder / ".DS_Store").write_bytes(b"x")
    first = sorted(folder.glob("*.dcm"))[0]
    shutil.copy(first, folder / "zz copy.dcm")
    image = pydicom.dcmread(first)
    image.ImageOrientationPatient = ["0", "1", "0", "0", "0", "1"]
    other_folder = next(path for path in (tmp_path / "set").glob("*/*") if path != folder)
    image.SeriesInstanceUID = pydicom.dcmread(next(other_folder.glob("*.dcm"))).SeriesInstanceUID
    image.save_as(other_folder / "turned.dcm")
    record = import_folder(tmp_path / "set", tmp_path / "batch", lung)
    reasons = {Path(name).name: reason for name, reason in record["left_out"].items()}
    assert "is not DICOM" in reasons["readme.txt"] and "is a copy of" in reasons["zz copy.dcm"]
    assert "is of a series that is none" in reasons["turned.dcm"] and len(reasons) == 5
    assert record["series"] == 5 and not list((tmp_path / "batch").rglob("readme.txt"))
    (tmp_path / "empty" / "normal").mkdir(parents=True)
    (tmp_path / "empty" / "normal" / "readme.txt").write_text("no scan")
    with pytest.raises(Fault, match=r"no scan was found in it \(normal/readme.txt is not DICOM"):
        import_folder(tmp_path / "empty", tmp_path / "none", lung)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("top", ["", "set/"])
def test_an_archive_of_a_set_is_imported_like_its_folder(classes: Path, tmp_path: Path, lung: Task, top: str) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in classes.rglob("*.png"):
            archive.write(path, f"{top}{path.relative_to(classes)}")
        archive.writestr("__MACOSX/._junk", b"x")
    record = import_folder(tmp_path / "set.zip", tmp_path / "zipped", lung)
    assert record == import_folder(classes, tmp_path / "plain", lung)
    assert fingerprint.hash_folder(tmp_path / "zipped") == fingerprint.hash_folder(tmp_path / "plain")


def test_an_archive_with_a_table_is_imported_and_one_with_outside_paths_is_refused(
    batch: Path, tmp_path: Path, lung: Task
) -> None:
    with zipfile.ZipFile(tmp_path / "ready.zip", "w") as archive:
        for path in batch.iterdir():
            archive.write(path, f"ready/{path.name}")
    assert import_folder(tmp_path / "ready.zip", tmp_path / "ready", lung)["layout"] == "metadata.csv"
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("normal/../../../evil.png", b"x")
    with pytest.raises(Fault, match=r"^evil\.zip: evil\.png has a path that leaves the archive"):
        import_folder(tmp_path / "evil.zip", tmp_path / "evil", lung)
    assert not (tmp_path / "evil").exists() and not list(tmp_path.parent.glob("evil*"))


def is_complete(record: dict[str, Any]) -> bool:
    """Whether every file of the folder is copied, read, passed over or left out with a reason."""
    left_out, passed_over = record.get("left_out", {}), record.get("passed_over", {})
    read_count = record["files_copied"] + len(record["tables_read"])
    return bool(record["files_found"] == read_count + len(left_out) + sum(passed_over.values()))


def fault_folder(real_data: Path, name: str) -> Path:
    return real_data / "intake-faults" / name


def test_people_without_patient_numbers_are_not_mixed(real_data: Path, tmp_path: Path, lung: Task) -> None:
    with pytest.raises(Fault, match="no patient number of their own, but several names or birth dates"):
        import_folder(fault_folder(real_data, "no-series-uid"), tmp_path / "batch", lung)
    with pytest.raises(Fault, match="has no folder at level 2"):
        import_folder(fault_folder(real_data, "no-series-uid"), tmp_path / "batch", lung, patient_level=2)
    for path in fault_folder(real_data, "no-series-uid").glob("*/*.dcm"):
        target = tmp_path / "set" / path.parent.name / path.name.split("_")[0] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    record = import_folder(tmp_path / "set", tmp_path / "sorted", lung, patient_level=2)
    assert (record["clusters"], record["files"], record["series"]) == (3, 12, 0) and is_complete(record)
    (tmp_path / "set" / "malignant" / "person0" / "person0_0.dcm").rename(
        tmp_path / "set" / "malignant" / "person1" / "person0_0.dcm"
    )
    with pytest.raises(Fault, match="two persons of the DICOM headers, by name or birth date"):
        import_folder(tmp_path / "set", tmp_path / "mixed", lung, patient_level=2)


def test_a_folder_level_above_the_patients_is_asked_for(real_data: Path, tmp_path: Path, brain: Task) -> None:
    source = fault_folder(real_data, "folder-level-above-patients")
    with pytest.raises(Fault, match=r"at level 1 2 \(HGG, LGG\); at level 2 6 \(Brats18_X_11_1, .*--patient-level"):
        import_folder(source, tmp_path / "batch", brain)
    record = import_folder(source, tmp_path / "batch", brain, patient_level=2)
    assert record["clusters"] == 6 and is_complete(record)
    with pytest.raises(Fault, match="has no folder at level 3, its depth is 2"):
        import_folder(source, tmp_path / "other", brain, patient_level=3)


def test_mask_pictures_become_masks(real_data: Path, tmp_path: Path, brain: Task) -> None:
    record = import_folder(fault_folder(real_data, "mask-pictures-beside-scans"), tmp_path / "batch", brain)
    table = read_metadata(tmp_path / "batch")
    masked = table[table["label"] == "tumour"]
    assert record["files"] == len(table) == 12 and record["files_copied"] == 18 and is_complete(record)
    assert not table["file_name"].str.contains("mask").any()
    assert (masked["mask"] == masked["file_name"].str.replace(".png", "_mask.png")).all()


def test_system_files_are_passed_over(real_data: Path, tmp_path: Path, brain: Task) -> None:
    record = import_folder(fault_folder(real_data, "appledouble-files"), tmp_path / "batch", brain)
    assert record["files"] == 1 and len(record["passed_over"]) == 2 and is_complete(record)


@pytest.mark.usefixtures("home")
def test_groups_in_latin_1_are_read(real_data: Path, tmp_path: Path, brain: Task) -> None:
    record = import_folder(fault_folder(real_data, "groups-latin1"), tmp_path / "batch", brain)
    assert (
        record["clusters"] == 6 and record["remarks"] == ["groups.csv is read as Windows-1252"] and is_complete(record)
    )
    assert read_metadata(tmp_path / "batch")["group"].str.startswith("M\u00fcller").all()


def test_linked_patients_are_copied(real_data: Path, tmp_path: Path, brain: Task) -> None:
    source = fault_folder(real_data, "folder-level-above-patients") / "HGG"
    disk, annexed = tmp_path / "disk", tmp_path / "set" / "annexed"
    shutil.copytree(source, disk)
    annexed.mkdir(parents=True)
    names = sorted(path.name for path in disk.iterdir())
    (tmp_path / "set" / names[0]).symlink_to(disk / names[0])
    shutil.copytree(disk / names[1], tmp_path / "set" / names[1])
    for path in (disk / names[2]).iterdir():
        (annexed / path.name).symlink_to(path)
    record = import_folder(tmp_path / "set", tmp_path / "batch", brain)
    assert record["clusters"] == 3 and is_complete(record)
    assert not [path for path in (tmp_path / "batch").rglob("*") if path.is_symlink()]
    (disk / names[2] / path.name).unlink()
    with pytest.raises(Fault, match="1 links lead nowhere"):
        import_folder(tmp_path / "set", tmp_path / "other", brain)


def write_volume(folder: Path, real_data: Path, name: str) -> None:
    """Write a volume and its mask under this name."""
    source = fault_folder(real_data, "appledouble-files") / "pat66"
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("Scan", "Mask"):
        shutil.copy(source / f"T1_{kind}.nii.gz", folder / f"{name}_{kind}.nii.gz")


@pytest.mark.parametrize(
    ("volume_names", "clusters"),
    [
        (("p1/T1", "p2/T1"), 2),
        (("p1/pre", "p1/post", "p2/pre", "p2/post"), 2),
        (("p1/p1_pre", "p1/p1_post", "p2/p2_x"), 2),
        (("images/p1/T1", "images/p2/T1"), 2),
        (("p1/2020/T1", "p1/2021/T1", "p2/2020/T1"), None),
        (("HGG/a", "HGG/b", "LGG/c"), None),
        (("all/a", "all/b"), None),
        (("images/a", "images/b"), None),
        (("a", "b"), None),
        (("p1/x/T1",), None),
        (("p1/T1", "p2/x/T1"), None),
        (("p01/T1", "p1/T1"), None),
    ],
)
def test_an_ambiguous_patient_folder_is_asked_for(
    real_data: Path, tmp_path: Path, brain: Task, volume_names: tuple[str, ...], clusters: int | None
) -> None:
    for volume_name in volume_names:
        write_volume((tmp_path / "set" / volume_name).parent, real_data, Path(volume_name).name)
    if clusters is None:
        with pytest.raises(Fault, match=r"--patient-level|differ only in spelling"):
            import_folder(tmp_path / "set", tmp_path / "batch", brain)
    else:
        record = import_folder(tmp_path / "set", tmp_path / "batch", brain)
        assert record["clusters"] == clusters and is_complete(record)


def test_patient_level_0_makes_files_patients_and_equal_folder_names_give_a_warning(
    real_data: Path, tmp_path: Path, brain: Task
) -> None:
    for name in ("a", "b"):
        write_volume(tmp_path / "flat", real_data, name)
    assert import_folder(tmp_path / "flat", tmp_path / "one", brain, patient_level=0)["clusters"] == 2
    for name in ("HGG/1", "LGG/1"):
        write_volume(tmp_path / "set" / name, real_data, "T1")
    record = import_folder(tmp_path / "set", tmp_path / "two", brain, patient_level=2)
    assert record["clusters"] == 1 and "taken for one patient: 1" in record["warning"]


def test_folders_below_the_classes_are_asked_for(classes: Path, tmp_path: Path, lung: Task) -> None:
    for path in list(classes.glob("*/*.png")):
        folder = path.parent / path.name.split("-")[0]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    with pytest.raises(Fault, match=r"at level 2 6 \(benign.* or give a groups\.csv"):
        import_folder(classes, tmp_path / "batch", lung)
    with pytest.raises(Fault, match="the folder at level 1 is the class"):
        import_folder(classes, tmp_path / "batch", lung, patient_level=1)
    record = import_folder(classes, tmp_path / "batch", lung, patient_level=2)
    assert record["clusters"] == 6 and record["patients_from"] == "folder names at level 2" and is_complete(record)
    assert import_folder(classes, tmp_path / "pseudo", lung, patient_level=0)["patients_from"].startswith("near-dup")


def test_class_folders_can_be_below_patient_folders(classes: Path, tmp_path: Path, lung: Task) -> None:
    for path in list(classes.glob("*/*.png")):
        folder = tmp_path / "turned" / f"p{path.name.split('(')[1][0]}" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.name)
    with pytest.raises(Fault, match=r"at level 1 2 \(p0, p1\)"):
        import_folder(tmp_path / "turned", tmp_path / "batch", lung)
    record = import_folder(tmp_path / "turned", tmp_path / "batch", lung, patient_level=1)
    assert record["clusters"] == 2 and set(record["labels"]) == set(lung.classes)
    shutil.copytree(tmp_path / "turned" / "p0" / "Normal", tmp_path / "turned" / "p0" / "Benign" / "Normal")
    with pytest.raises(Fault, match="is in folders of two classes"):
        import_folder(tmp_path / "turned", tmp_path / "other", lung, patient_level=1)


def test_one_series_in_two_patient_folders_is_refused(batch: Path, tmp_path: Path, lung: Task) -> None:
    table = dicom_classes(tmp_path / "set", batch)
    first = table["patient_id"].iloc[0]
    label = table["label"].iloc[0]
    (tmp_path / "set" / label / "other").mkdir()
    moved = sorted((tmp_path / "set" / label / first).glob("*.dcm"))[0]
    moved.rename(tmp_path / "set" / label / "other" / moved.name)
    with pytest.raises(Fault, match="one person of the DICOM headers is two patients by folder"):
        import_folder(tmp_path / "set", tmp_path / "batch", lung, patient_level=2)


def test_files_without_a_row_are_left_out_by_name(batch: Path, tmp_path: Path, lung: Task) -> None:
    (batch / "notes.txt").write_text("x")
    (batch / ".DS_Store").write_text("x")
    record = import_folder(batch, tmp_path / "batch", lung, only="scan-000[01]*")
    assert record["left_out"]["notes.txt"] == "does not match 'scan-000[01]*'" and is_complete(record)
    assert record["files_found"] == 15 and record["tables_read"] == ["metadata.csv"]
    record = import_folder(batch, tmp_path / "all", lung)
    assert record["left_out"] == {"notes.txt": "is named by no row of metadata.csv"} and is_complete(record)


def test_scouts_and_captures_are_left_out_by_name(batch: Path, tmp_path: Path, lung: Task) -> None:
    """They are in the series of the slices or in their own; marked as a localizer or only in another orientation."""
    dicom_classes(tmp_path / "set", batch)
    folders = sorted((tmp_path / "set").glob("*/*"))
    changes: dict[str, dict[str, object]] = {
        "marked.dcm": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        "marked elsewhere.dcm": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesInstanceUID": "1.2"},
        "turned.dcm": {"ImageOrientationPatient": ["1", "0", "0", "0", "0", "-1"]},
        "capture.dcm": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "SeriesInstanceUID": "1.3"},
    }
    for folder, (name, change) in zip(folders, changes.items(), strict=False):
        image = pydicom.dcmread(sorted(folder.glob("scan*.dcm"))[0])
        for keyword, value in change.items():
            setattr(image, keyword, value)
        image.save_as(folder / name)
    record = import_folder(tmp_path / "set", tmp_path / "batch", lung)
    left_out = {Path(name).name: reason for name, reason in record["left_out"].items()}
    assert set(left_out) == set(changes) and record["series"] == record["files"] == 6
    assert "localizer" in left_out["marked.dcm"] and "localizer" in left_out["marked elsewhere.dcm"]
    assert "another orientation" in left_out["turned.dcm"] and "secondary capture" in left_out["capture.dcm"]
    indexed = index_batch(tmp_path / "batch", tmp_path / "staging", lung)
    assert len(indexed.manifest) == 12 and not indexed.refused and not indexed.left_out


def test_the_scout_of_the_real_example_is_left_out(real_data: Path, tmp_path: Path, lung: Task) -> None:
    record = import_folder(real_data / "intake-faults" / "scout-in-series", tmp_path / "batch", lung)
    assert list(record["left_out"]) == ["normal/p0/scout.dcm"] and record["series"] == record["files"] == 3


def test_pseudo_patients_of_two_sets_have_different_names(classes: Path, tmp_path: Path, lung: Task) -> None:
    import_folder(classes, tmp_path / "one", lung)
    for path in classes.glob("*/*.png"):
        grey = np.asarray(Image.open(path))
        Image.fromarray(255 - grey[::-1]).save(path)
    import_folder(classes, tmp_path / "two", lung)
    first_groups, second_groups = (set(read_metadata(tmp_path / name)["group"]) for name in ("one", "two"))
    assert first_groups and second_groups and first_groups.isdisjoint(second_groups)


@pytest.mark.parametrize("name", ["Metadata.csv", "metadata.xlsx", "groups.xlsx"])
def test_a_misnamed_table_stops_the_import(classes: Path, tmp_path: Path, lung: Task, name: str) -> None:
    (classes / name).write_text("x")
    with pytest.raises(Fault, match=f"{name} is not read"):
        import_folder(classes, tmp_path / "batch", lung)


def test_one_patient_number_for_all_studies_is_asked_for(batch: Path, tmp_path: Path, lung: Task) -> None:
    rows = pd.read_csv(batch / "metadata.csv", dtype=str)
    for row in rows.itertuples():
        header = pydicom.dcmread(batch / row.file_name)
        header.PatientID, header.PatientName, header.PatientBirthDate = "12345", "", ""
        (tmp_path / "set" / row.label).mkdir(parents=True, exist_ok=True)
        header.save_as(tmp_path / "set" / row.label / row.file_name)
    with pytest.raises(Fault, match="one patient number in its DICOM header, in 6 studies"):
        import_folder(tmp_path / "set", tmp_path / "batch", lung)
    assert import_folder(tmp_path / "set", tmp_path / "batch", lung, patient_level=0)["clusters"] == 1


def test_groups_match_file_names_in_another_unicode_form(classes: Path, tmp_path: Path, lung: Task) -> None:
    rows = ["file,label,group"]
    for number, path in enumerate(sorted(classes.glob("*/*.png"))):
        moved = path.rename(path.with_name(unicodedata.normalize("NFD", f"Fäll-{number}.png")))
        composed = unicodedata.normalize("NFC", moved.name)
        rows.append(f"{path.parent.name}/{composed},{path.parent.name},G{number}")
    (classes / "groups.csv").write_text("\n".join(rows) + "\n")
    assert import_folder(classes, tmp_path / "batch", lung)["clusters"] == len(rows) - 1
