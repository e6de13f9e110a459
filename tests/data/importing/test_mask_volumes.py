"""Which mask is whose, and which of its values is the lesion: by name and by answer, never by order or by guess."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from data.batch import lesion_grid, manifest
from data.batch.metadata_table import metadata
from data.importing import mask_volumes
from data.importing.import_folder import import_folder
from data.phantom import batch as phantom_batch
from data.phantom import files
from data.phantom import study as phantom_study
from data.record import Scan, Task, Units
from data.scan.read import read
from lineage.errors import Fault


def put(root: Path, *names: str) -> Path:
    """Files under these names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def paired(root: Path, only: str | None = None) -> dict[str, str]:
    found = mask_volumes.volumes(root, only)
    return {scan.relative_to(root).as_posix(): mask.relative_to(root).as_posix() for scan, mask in found}


@pytest.mark.parametrize(
    ("scan", "mask"),
    [
        ("p/X.nii.gz", "p/X_mask.nii.gz"),
        ("p/X.nii", "p/X_seg.nii.gz"),
        ("p/X.nii.gz", "p/X-label.nii.gz"),
        ("p/Pre_Scan_T1.nii.gz", "p/Pre_Mask.nii.gz"),
        ("p/CT_scan.nii.gz", "p/CT_mask.nii.gz"),
        ("p/imaging.nii.gz", "p/segmentation.nii.gz"),
        ("p/volume-12.nii", "p/segmentation-12.nii"),
        ("p/B_001_t1ce.nii.gz", "p/B_001_seg.nii.gz"),
        ("p/scan.nii.gz", "p/tumormask.nii.gz"),
        ("imagesTr/p_01.nii.gz", "labelsTr/p_01.nii.gz"),
        ("imagesTr/p_01_0000.nii.gz", "labelsTr/p_01.nii.gz"),
        ("set/images/p.nii.gz", "set/masks/p.nii.gz"),
        ("p/T1_scan.nii.gz", "p/T1_scan_mask.nii.gz"),
        ("p/image.nii.gz", "p/image_seg.nii.gz"),
        ("P/T1.NII.GZ", "P/T1_MASK.NII.GZ"),
    ],
)
def test_a_mask_is_found_by_its_name(tmp_path: Path, scan: str, mask: str) -> None:
    if mask == "p/tumormask.nii.gz":
        scan = "p/tumor_scan.nii.gz"
    put(tmp_path, scan, mask, "p/._X_mask.nii.gz")
    assert paired(tmp_path) == {scan: mask}


def test_scans_of_a_public_set_that_nobody_labelled_are_passed_over(tmp_path: Path) -> None:
    root = put(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b.nii.gz")
    assert paired(root) == {"imagesTr/a.nii.gz": "labelsTr/a.nii.gz"}


def test_numbers_and_longer_names_are_not_mixed_up(tmp_path: Path) -> None:
    put(
        tmp_path,
        "p/1.nii.gz",
        "p/10.nii.gz",
        "p/1_mask.nii.gz",
        "p/10_mask.nii.gz",
        "p/1_b.nii.gz",
        "p/1_b_mask.nii.gz",
    )
    assert paired(tmp_path) == {f"p/{name}.nii.gz": f"p/{name}_mask.nii.gz" for name in ("1", "10", "1_b")}


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("p/X.nii.gz", "p/X_mask.nii.gz", "p/X_seg.nii.gz"), r"p/X\.nii\.gz: 2 masks belong to it by name \(X_mask"),
        (("p/image.nii.gz", "p/image_mask.nii.gz", "p/Y.nii.gz"), r"p/Y\.nii\.gz: 0 masks belong to it"),
        (("p/X.nii.gz", "p/X_mask.nii.gz", "p/Y.nii.gz"), r"p/Y\.nii\.gz: 0 masks belong to it"),
        (("p/X.nii.gz", "p/X_mask.nii.gz", "p/Y_mask.nii.gz"), r"p/Y_mask\.nii\.gz: is named as a mask, and no scan"),
        (("imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz"), r"imagesTr/b\.nii\.gz: 0 masks"),
    ],
)
def test_what_is_not_clear_by_name_is_refused(tmp_path: Path, names: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(Fault, match=sentence):
        paired(put(tmp_path, *names))


def test_every_patient_of_a_split_folder_is_one(tmp_path: Path) -> None:
    root = put(tmp_path, "imagesTr/p_01_0000.nii.gz", "labelsTr/p_01.nii.gz")
    patients, notes = mask_volumes.patients_of([root / "imagesTr/p_01_0000.nii.gz"], root, None)
    assert patients == {"imagesTr/p_01_0000.nii.gz": "p_01"} and notes["patients_from"] == "file names"
    put(tmp_path, "p7/imagesTr/x.nii.gz", "p7/labelsTr/x.nii.gz", "p8/imagesTr/x.nii.gz", "p8/labelsTr/x.nii.gz")
    two = [root / f"{patient}/imagesTr/x.nii.gz" for patient in ("p7", "p8")]
    with pytest.raises(Fault, match=r"at level 1 2 \(p7, p8\)"):
        mask_volumes.patients_of(two, root, None)
    assert set(mask_volumes.patients_of(two, root, 1)[0].values()) == {"p7", "p8"}


def test_labels_follow_the_mask_by_affine(real_data: Path, tmp_path: Path, brain: Task) -> None:
    import_folder(real_data / "intake-faults/mask-other-orientation", tmp_path / "batch", brain)
    table = metadata(tmp_path / "batch")
    ill = table[table["label"] == "tumour"].groupby("patient_id")["slice"].apply(lambda part: [int(x) for x in part])
    assert ill.to_dict() == {"pat1": [4, 5, 6, 7], "pat2": [0, 1, 2, 3], "pat3": [4, 5, 6, 7]}


@pytest.mark.usefixtures("home")
def test_an_organ_and_a_tumour_are_asked_for(real_data: Path, tmp_path: Path, brain: Task) -> None:
    source = real_data / "intake-faults/mask-organ-and-tumour"
    with pytest.raises(Fault, match=r"T1_Mask\.nii\.gz: holds the values 1, 2 besides 0; .*--lesion-value 2"):
        import_folder(source, tmp_path / "asked", brain)
    import_folder(source, tmp_path / "batch", brain, lesion_value="2")
    table = metadata(tmp_path / "batch")
    assert set(table["lesion_value"]) == {"2"}
    ill = table[table["label"] == "tumour"].groupby("patient_id").size()
    assert "pat603" not in ill and 0 < ill["pat601"] < 8
    found = manifest.index_batch(tmp_path / "batch", tmp_path / "staging", brain)
    assert not found.refused
    grids = lesion_grid.read_grids(tmp_path / "staging" / lesion_grid.NAME)
    drawn = {unit for unit, grid in grids.items() if grid.any()}
    assert drawn == set(found.manifest.loc[found.manifest["label"] == "tumour", "unit_id"])


def test_masks_of_two_meanings_are_asked_for_across_the_import(real_data: Path, tmp_path: Path, brain: Task) -> None:
    """Values {0, 1} here and {0, 2} there: one of the two may be the organ alone."""
    source = tmp_path / "set"
    shutil.copytree(real_data / "intake-faults/mask-other-orientation", source)
    path = source / "pat1/T1_Mask.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj) * 2, image.affine), path)
    with pytest.raises(Fault, match=r"the masks hold different values: 1 \(first in pat2/.*\), 2 \(first in pat1/"):
        import_folder(source, tmp_path / "asked", brain)
    import_folder(source, tmp_path / "batch", brain, lesion_value="1,2")
    assert (metadata(tmp_path / "batch")["label"] == "tumour").sum() == 12
    record = import_folder(source, tmp_path / "none", brain, lesion_value="3")
    assert record["warning"] == "no mask holds the value 3: no slice is tumour"


@pytest.mark.usefixtures("home")
def test_a_batch_asks_too(tmp_path: Path, brain: Task) -> None:
    batch = tmp_path / "inbox/masked"
    phantom_batch.write_batch(batch, brain, 4, phantom_study.usual(brain), 3, slices=2, masks=True)
    rows = metadata(batch).to_dict("records")
    ill = next(row["mask"] for row in rows if row["label"] == "tumour")
    content = nibabel.Nifti1Image.from_bytes(gzip.decompress((batch / ill).read_bytes()))
    twice = nibabel.Nifti1Image(np.asarray(content.dataobj) * 2, content.affine)
    (batch / ill).write_bytes(gzip.compress(twice.to_bytes()))
    with pytest.raises(Fault, match="the masks hold different values"):
        manifest.index_batch(batch, tmp_path / "staging", brain)
    answer(batch, "1;2")
    assert not manifest.index_batch(batch, tmp_path / "staging", brain).refused
    answer(batch, "many")
    refused = manifest.index_batch(batch, tmp_path / "staging", brain).refused
    assert len(refused) == 4 and "lesion value 'many'" in refused[0].reason


def answer(batch: Path, value: str) -> None:
    """Write that lesion_value into every row."""
    rows = [row | {"lesion_value": value} for row in metadata(batch).to_dict("records")]
    with (batch / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def picture(pixels: np.ndarray, kind: str = "PNG", **options: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


PICTURE = Scan("scan", np.zeros((1, 64, 64), np.float32), Units.DISPLAY, None, None, {"format": "picture"})


def drawn(
    pixels: np.ndarray, kind: str = "PNG", values: tuple[float, ...] = (), **options: int
) -> lesion_grid.LesionMask:
    return lesion_grid.drawn("mask", picture(pixels, kind, **options), PICTURE, values)


def disc(value: int, radius: int = 12) -> np.ndarray:
    rows, columns = np.mgrid[:64, :64]
    return np.where((rows - 30) ** 2 + (columns - 25) ** 2 < radius**2, value, 0).astype(np.uint8)


@pytest.mark.parametrize("quality", [30, 60, 95])
@pytest.mark.parametrize("radius", [2, 12])
def test_the_noise_of_a_jpeg_is_no_value(quality: int, radius: int) -> None:
    outline = drawn(disc(255, radius), "JPEG", quality=quality)
    assert (outline.lesion[0] == (disc(255, radius) > 0)).mean() > 0.998 and outline.values == {1.0}


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (np.maximum(disc(120, 20), disc(255, 6)), "grey areas that are neither black nor white"),
        (disc(1), r"brightest pixel is \d+, not white"),
        (disc(120), "not white"),
    ],
)
def test_a_jpeg_that_is_not_black_and_white_is_refused(pixels: np.ndarray, sentence: str) -> None:
    with pytest.raises(Fault, match=sentence):
        drawn(pixels, "JPEG", quality=90)


def test_white_of_a_picture_and_one_of_a_volume_are_one_meaning() -> None:
    assert drawn(disc(255)).values == drawn(disc(1)).values == {1.0} and drawn(disc(0)).values == frozenset()
    both = np.maximum(disc(128, 20), disc(255, 6))
    with pytest.raises(Fault, match="holds the values 128, 255 besides 0"):
        drawn(both)
    np.testing.assert_array_equal(drawn(both, values=(255.0,)).lesion[0], disc(255, 6) > 0)
    with pytest.raises(Fault, match="everywhere and has no background"):
        drawn(np.full((64, 64), 255, np.uint8))


def volume(values: np.ndarray) -> bytes:
    return bytes(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])).to_bytes())


def of_floats(values: list[float], wanted: tuple[float, ...] = ()) -> lesion_grid.LesionMask:
    array = np.zeros((4, 5, 2), np.float32)
    array.flat[1 : 1 + len(values)] = values
    return lesion_grid.drawn("mask", volume(array), read("scan", volume(np.ones((4, 5, 2), np.float32))), wanted)


def test_floats_are_labels_where_they_are_whole() -> None:
    assert of_floats([1.0, 1.0]).lesion.sum() == 2 and of_floats([0.9999]).lesion.sum() == 1
    assert of_floats([1.0, 2.00001, 2.0], wanted=(2.0,)).lesion.sum() == 2
    for values, sentence in (
        ([0.2, 0.7, 1.0], "fractions between 0 and 1"),
        ([1.0, 7.5], "values that are no labels"),
        ([-1.0, 1.0], "holds the values -1, 1 besides 0"),
        ([-1.0], "holds the values -1"),
    ):
        with pytest.raises(Fault, match=sentence):
            of_floats(values)
    with pytest.raises(Fault, match="fractions between 0 and 1"):
        of_floats([0.2, 0.7, 1.0], wanted=(1.0,))


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_a_dicom_segmentation_is_named(lung: Task, kind: str) -> None:
    import pydicom

    study = phantom_study.study(lung, phantom_study.usual(lung), 3, 0, "malignant")
    pixels, pixel = study.slice(0, 1)
    content = files.dicom(study, pixels, pixel, 0)
    header = pydicom.dcmread(io.BytesIO(content))
    header.Modality = kind
    stream = io.BytesIO()
    header.save_as(stream)
    with pytest.raises(Fault, match="is a DICOM segmentation, which can't be read yet; convert it to NIfTI"):
        lesion_grid.drawn("mask", stream.getvalue(), read("scan", content))


def test_a_ready_table_takes_the_answer_too(tmp_path: Path, brain: Task) -> None:
    batch = tmp_path / "inbox/masked"
    phantom_batch.write_batch(batch, brain, 2, phantom_study.usual(brain), 3, slices=2, masks=True)
    import_folder(batch, tmp_path / "batch", brain, lesion_value="1")
    assert set(metadata(tmp_path / "batch")["lesion_value"]) == {"1"}
    plain = tmp_path / "inbox/plain"
    phantom_batch.write_batch(plain, brain, 2, phantom_study.usual(brain), 3, slices=2)
    with pytest.raises(Fault, match="--lesion-value 2: no scan of the folder has a mask"):
        import_folder(plain, tmp_path / "none", brain, lesion_value="2")


@pytest.mark.parametrize("name", ["P1_T1_lesion.nii.gz", "P1_T1_seg1.nii.gz", "P1_T1_roi.nii.gz"])
def test_a_mask_that_its_name_does_not_tell_is_no_scan(tmp_path: Path, brain: Task, name: str) -> None:
    """Beside `P1_T1_mask.nii.gz` it would be a second scan of the same patient, labelled by that mask."""
    phantom_batch.write_batch(tmp_path / "made", brain, 2, phantom_study.usual(brain), 3, slices=4, masks=True)
    folder = tmp_path / "set" / "P1"
    folder.mkdir(parents=True)
    (folder / "P1_T1.nii.gz").write_bytes((tmp_path / "made" / "scan-0000.nii.gz").read_bytes())
    tumour = next(
        path for path in sorted((tmp_path / "made/masks").iterdir()) if read(path.name, path.read_bytes()).pixels.any()
    )
    for copy in ("P1_T1_mask.nii.gz", name):
        (folder / copy).write_bytes(tumour.read_bytes())
    with pytest.raises(
        Fault, match=f"{name}: was taken for the scan of P1_T1_mask.nii.gz, but is a computed map or a seg"
    ):
        import_folder(tmp_path / "set", tmp_path / "batch", brain)


def test_channels_that_share_a_mask_are_counted_and_masks_without_such_a_name_are_asked_for(
    tmp_path: Path, brain: Task
) -> None:
    phantom_batch.write_batch(tmp_path / "made", brain, 2, phantom_study.usual(brain), 3, slices=4, masks=True)
    for folder, ending in (("imagesTr", "_0000"), ("imagesTr", "_0001"), ("labelsTr", "")):
        for number in range(2):
            place = tmp_path / "set" / folder / f"case_{number}{ending}.nii.gz"
            place.parent.mkdir(parents=True, exist_ok=True)
            made = tmp_path / "made" / ("masks" if folder == "labelsTr" else "") / f"scan-{number:04d}.nii.gz"
            place.write_bytes(made.read_bytes())
    record = import_folder(tmp_path / "set", tmp_path / "both", brain)
    assert "4 scans have 2 masks" in record["warning"] and "--only" in record["warning"]
    assert "warning" not in import_folder(tmp_path / "set", tmp_path / "one", brain, only="*_0000.nii.gz")
    put(tmp_path / "other", "s0/mri.nii.gz", "s0/segmentations/tumor.nii.gz")
    with pytest.raises(Fault, match=r"'s0' is none of the classes .*, and no NIfTI file is named as a mask"):
        import_folder(tmp_path / "other", tmp_path / "none", brain)
