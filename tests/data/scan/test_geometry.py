"""Outlines cover the lesion for every orientation of scan and mask, or the mask is refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from itertools import permutations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.eulerangles import euler2mat
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from data.batch import lesion_grid, manifest
from data.core_types import Scan, Task
from data.importing.mask_volumes import slice_rows
from data.scan import geometry, slice_features, zip_archive
from data.scan.read import read_scan
from lineage.errors import Fault
from pipelines import params

Volume = NDArray[np.int16]
ROOT = Path(__file__).resolve().parents[3]
SIDES, VOXEL = (6, 10, 9), (3.0, 0.8, 1.1)  # slices, rows, columns of the body, and mm; all different
ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))
LESION = (slice(2, 4), slice(1, 3), slice(6, 9))  # near one corner, so that no symmetry hides a wrong turn


def body() -> Volume:
    """A patient, slices × rows × columns in LPS: every voxel has a unique value, the highest ones in the lesion."""
    random = np.random.default_rng(3)
    volume = random.permutation(np.prod(SIDES)).reshape(SIDES).astype(np.int16)
    volume[LESION] += 2000
    return volume


def lesion() -> Volume:
    """The mask of `body`, on its grid."""
    mask = np.zeros(SIDES, np.int16)
    mask[LESION] = 1
    return mask


def standard(tilt: float = 0.0) -> geometry.Affine:
    """The affine of `body`: standard axial slices, turned by `tilt` (radians) about two axes."""
    cosine, sine = np.cos(tilt), np.sin(tilt)
    about_z = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    turn = about_z @ np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0, VOXEL[2]], [0, VOXEL[1], 0], [VOXEL[0], 0, 0]])
    affine[:3, 3] = (-31.5, 12.25, 7.0)
    return affine


def stored(volume: Volume, affine: geometry.Affine, orientation: Any) -> tuple[Volume, geometry.Affine]:
    """The same voxels stored with axes exchanged and reversed, and the matching affine."""
    axes, signs = orientation
    moved, new = volume.transpose(axes), affine[:, [*axes, 3]].copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            moved = np.flip(moved, axis)
            new[:, 3] += new[:, axis] * (moved.shape[axis] - 1)
            new[:, axis] *= -1
    return moved, new


def nifti(
    volume: Volume, affine: geometry.Affine, orientation: Any = ((0, 1, 2), (1, 1, 1)), codes: tuple[int, int] = (1, 1)
) -> bytes:
    """A volume as NIfTI, its voxels (k, j, i) stored in that orientation, with codes of sform and qform."""
    moved, new = stored(volume, affine, orientation)
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ new[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(moved.transpose(2, 1, 0), ras)
    image.set_sform(ras, codes[0])
    image.set_qform(ras, codes[1])
    return bytes(image.to_bytes())


def header(plane: Volume, affine: geometry.Affine, frames: int = 1) -> FileDataset:
    """A CT file with the pixels of the plane or of several frames."""
    image = FileDataset(None, {}, preamble=b"\0" * 128)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = pydicom.uid.generate_uid()
    image.Modality, image.SeriesInstanceUID, image.PatientID = "CT", "1.2.3", "P1"
    image.RescaleSlope, image.RescaleIntercept = "1", "-1024"
    image.Rows, image.Columns = plane.shape[-2:]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    if frames > 1:
        image.NumberOfFrames = frames
    image.PixelData = np.ascontiguousarray(plane).astype("<i2").tobytes()
    return image


def cosines(affine: geometry.Affine) -> tuple[list[float], list[float], float]:
    """Orientation, pixel spacing (row, column) and distance, rounded as decimal strings hold 16 characters."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / lengths
    values = [float(f"{value:.10f}") for value in (*directions[:, 2], *directions[:, 1])]
    return values, [float(lengths[1]), float(lengths[2])], float(lengths[0])


def saved(image: FileDataset) -> bytes:
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def slices(volume: Volume, affine: geometry.Affine) -> Iterator[bytes]:
    """The single-slice DICOM files of a stored volume."""
    orientation, spacing, distance = cosines(affine)
    for number, plane in enumerate(volume):
        image = header(plane, affine)
        image.ImageOrientationPatient, image.PixelSpacing, image.SliceThickness = orientation, spacing, distance
        image.ImagePositionPatient = [float(f"{x:.6f}") for x in affine[:3, 3] + affine[:3, 0] * number]
        yield saved(image)


def multiframe(volume: Volume, affine: geometry.Affine, order: list[int]) -> bytes:
    """One multi-frame file of all slices, stored in that order."""
    orientation, spacing, distance = cosines(affine)
    image = header(volume[order], affine, len(volume))
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = orientation
    measures.PixelSpacing, measures.SliceThickness = spacing, distance
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    image.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number in order:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [float(f"{x:.6f}") for x in affine[:3, 3] + affine[:3, 0] * number]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = frames
    return saved(image)


def series(files: list[bytes], order: list[int]) -> bytes:
    """A zip of the files, named in that order."""
    return zip_archive.pack_files({f"{position}.dcm": files[number] for position, number in enumerate(order)})


ORIENTATION = st.sampled_from(ORIENTATIONS)
TILT = st.sampled_from([0.0, 0.03, -0.1])
ORDER = st.permutations(range(10))  # of files or frames; numbers of absent slices are skipped


@cache
def lesion_values() -> frozenset[int]:
    """The values of `body` in the lesion, which identify its voxels in any order."""
    return frozenset(body()[LESION].ravel().tolist())


def check_outline(scan: Scan, mask: bytes) -> None:
    """Check that the outline covers exactly the voxels of the lesion."""
    outline = lesion_grid.read_lesion_mask("mask", mask, scan).lesion
    shift = 1024 if scan.header["format"] == "dicom" else 0
    assert outline.shape == scan.pixels.shape
    assert {int(value) + shift for value in scan.pixels[outline]} == lesion_values()


@settings(max_examples=150, deadline=None)
@given(ORIENTATION, ORIENTATION, TILT)
def test_a_mask_fits_a_volume_in_any_two_orientations(
    scan_orientation: Any, mask_orientation: Any, tilt: float
) -> None:
    affine = standard(tilt)
    check_outline(read_scan("scan", nifti(body(), affine, scan_orientation)), nifti(lesion(), affine, mask_orientation))


@settings(max_examples=30, deadline=None)
@given(ORIENTATION, ORIENTATION, TILT, ORDER, st.booleans())
def test_masks_of_any_format_fit_series_and_frames_in_any_order(
    scan_orientation: Any, mask_orientation: Any, tilt: float, order: list[int], is_multiframe: bool
) -> None:
    affine = standard(tilt)
    volume, stored_affine = stored(body(), affine, scan_orientation)
    mask_volume, mask_affine = stored(lesion(), affine, mask_orientation)
    order, masks = ([number for number in order if number < len(planes)] for planes in (volume, mask_volume))
    content = (
        multiframe(volume, stored_affine, order)
        if is_multiframe
        else series(list(slices(volume, stored_affine)), order)
    )
    scan = read_scan("scan", content)
    check_outline(scan, nifti(lesion(), affine, mask_orientation))
    check_outline(scan, series(list(slices(mask_volume + 1024, mask_affine)), masks))


@settings(max_examples=20, deadline=None)
@given(ORIENTATION, ORIENTATION, TILT)
def test_one_dicom_slice_gets_its_part_of_a_volume_mask(
    scan_orientation: Any, mask_orientation: Any, tilt: float
) -> None:
    affine = standard(tilt)
    mask = nifti(lesion(), affine, mask_orientation)
    volume, stored_affine = stored(body(), affine, scan_orientation)
    values: set[int] = set()
    for content in slices(volume, stored_affine):
        scan = read_scan("slice", content)
        values |= {int(value) + 1024 for value in scan.pixels[lesion_grid.read_lesion_mask("mask", mask, scan).lesion]}
    assert values == lesion_values()


@settings(max_examples=40, deadline=None)
@given(ORIENTATION, ORIENTATION, TILT)
def test_an_import_labels_exactly_the_slices_with_a_lesion(
    scan_orientation: Any, mask_orientation: Any, tilt: float
) -> None:
    task, affine = params.load(ROOT).task("brain-mr"), standard(tilt)
    with TemporaryDirectory() as folder:
        scan, mask = Path(folder, "scan.nii"), Path(folder, "mask.nii")
        scan.write_bytes(nifti(body(), affine, scan_orientation))
        mask.write_bytes(nifti(lesion(), affine, mask_orientation))
        rows, blank, _ = slice_rows(scan, mask, task)
    planes, _ = stored(body(), affine, scan_orientation)
    labels = ["tumour" if lesion_values() & set(plane.ravel().tolist()) else "no_tumour" for plane in planes]
    assert [row["label"] for row in rows] == labels and blank == 0, "slices are counted in the order of the file"


@pytest.mark.parametrize(("axes", "plane"), [((0, 1, 2), "axial"), ((2, 1, 0), "sagittal"), ((1, 0, 2), "coronal")])
def test_the_plane_of_a_volume_is_described(axes: tuple[int, int, int], plane: str) -> None:
    """Slices run along the third axis of the file. If that is not the patient's z axis, the plane is not axial."""
    scan = read_scan("scan", nifti(body(), standard(), (axes, (1, -1, 1))))
    facts = slice_features.describe(scan.pixels[0], scan)
    assert facts["plane"] == plane
    assert (facts["row_spacing"], facts["column_spacing"]) == pytest.approx(
        {"axial": (0.8, 1.1), "sagittal": (3.0, 0.8), "coronal": (3.0, 1.1)}[plane]
    )


def changed(affine: geometry.Affine, shift: float = 0.0, scale: float = 1.0, turn: float = 0.0) -> geometry.Affine:
    """The affine shifted by `shift` voxels along the rows, scaled, and turned by `turn` radians about the z axis."""
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    moved = affine.copy()
    moved[:3, 3] += moved[:3, 2] * shift
    moved[:3, :3] *= scale
    return np.asarray(rotation @ moved)


@pytest.mark.parametrize(
    ("shift", "scale", "turn", "sentence"),
    [
        (0.4, 1.0, 0.0, r"mask: is shifted by 0\.40 voxels against"),
        (0.0, 1.2, 0.0, "mask: has voxels of 3.60 × 0.96 × 1.32 mm"),
        (0.0, 1.0, 0.2, "mask: is turned against its scan by 11.5 degrees"),
        (3.0, 1.0, 0.0, "mask: does not cover"),
    ],
)
def test_a_mask_on_another_grid_is_refused(shift: float, scale: float, turn: float, sentence: str) -> None:
    scan = read_scan("scan", nifti(body(), standard()))
    with pytest.raises(Fault, match=sentence):
        lesion_grid.read_lesion_mask("mask", nifti(lesion(), changed(standard(), shift, scale, turn)), scan)


def test_a_mask_is_refused_for_a_series_with_a_shifted_slice() -> None:
    files = list(slices(body(), standard()))
    moved = pydicom.dcmread(io.BytesIO(files[2]))
    moved.ImagePositionPatient = [moved.ImagePositionPatient[0] + 6, *moved.ImagePositionPatient[1:]]
    files[2] = saved(moved)
    with pytest.raises(Fault, match=r"a regular grid, and its scan is not \(uneven distances, gantry tilt\)"):
        lesion_grid.read_lesion_mask(
            "mask", nifti(lesion(), standard()), read_scan("scan", series(files, list(range(len(files)))))
        )


def test_rounding_does_not_change_the_grid() -> None:
    check_outline(
        read_scan("scan", nifti(body(), standard())), nifti(lesion(), changed(standard(), shift=0.05, turn=1e-4))
    )


def test_a_mask_of_the_same_shape_turned_by_a_right_angle_is_refused() -> None:
    cube, affine = np.zeros((8, 8, 8), np.int16), np.diag([1.0, 1.0, 1.0, 1.0])
    cube[1, 2, 3] = 1
    affine[:3, 3] = 5
    other = affine.copy()
    other[:3, :3] = other[:3, :3] @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    with pytest.raises(Fault, match="does not cover"):
        lesion_grid.read_lesion_mask("mask", nifti(cube, other), read_scan("scan", nifti(cube, affine)))


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 1)])
def test_sform_and_qform_give_the_same_outline(codes: tuple[int, int]) -> None:
    orientation = ORIENTATIONS[37]
    check_outline(read_scan("scan", nifti(body(), standard(0.1), orientation, codes)), nifti(lesion(), standard(0.1)))


def test_contradicting_sform_and_qform_are_refused() -> None:
    image = nibabel.Nifti1Image.from_bytes(nifti(body(), standard()))
    image.set_qform(np.diag([-1.0, 1.0, 1.0, 1.0]) @ image.get_sform(), 1)
    with pytest.raises(Fault, match="scan: its sform and its qform name different sides"):
        read_scan("scan", bytes(image.to_bytes()))


def test_a_volume_that_was_registered_to_an_atlas_uses_its_sform() -> None:
    image = nibabel.Nifti1Image.from_bytes(nifti(body(), standard()))
    image.set_sform(nibabel.affines.from_matvec(euler2mat(0.2, 0.1, 0.6)) @ image.get_qform(), 4)
    scan = read_scan("scan", bytes(image.to_bytes()))
    assert scan.affine is not None
    expected = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.get_sform()
    np.testing.assert_allclose(np.abs(scan.affine[:3, 0]), np.abs(expected[:3, 2]), atol=1e-5)


def test_a_volume_without_orientation_only_fits_a_mask_without_one() -> None:
    """With both codes 0 the directions are a guess, so a mask with a known orientation does not fit."""
    scan = read_scan("scan", nifti(body(), standard(), codes=(0, 0)))
    assert scan.affine is None and scan.header["geometry"] == geometry.UNKNOWN
    check_outline(scan, nifti(lesion(), standard(), codes=(0, 0)))
    with pytest.raises(Fault, match="its scan does not say where its voxels are"):
        lesion_grid.read_lesion_mask("mask", nifti(lesion(), standard()), scan)
    with pytest.raises(Fault, match="it does not say where its voxels are"):
        lesion_grid.read_lesion_mask(
            "mask", nifti(lesion(), standard(), codes=(0, 0)), read_scan("scan", nifti(body(), standard()))
        )
    plain = bytes(nibabel.Nifti1Image(lesion().transpose(2, 1, 0), np.eye(4)).to_bytes())
    with pytest.raises(Fault, match="does not say where its voxels are"):
        lesion_grid.read_lesion_mask("mask", plain, scan)


def test_a_picture_mask_fits_one_slice_that_has_rows_and_columns() -> None:
    plane, png = lesion()[2], io.BytesIO()
    Image.fromarray(plane.astype(np.uint8) * 255).save(png, "PNG")
    content = list(slices(body(), standard()))[2]
    scan = read_scan("slice", content)
    np.testing.assert_array_equal(lesion_grid.read_lesion_mask("mask", png.getvalue(), scan).lesion[0], plane > 0)
    flat = read_scan("scan", nifti(body()[2:3], standard()))
    with pytest.raises(Fault, match="it does not say where its voxels are in the patient"):
        lesion_grid.read_lesion_mask("mask", png.getvalue(), flat)


@pytest.mark.usefixtures("home")
def test_outlines_cover_the_lesion_in_any_patient_position(real_data: Path, tmp_path: Path, lung: Task) -> None:
    """Supine, prone, and a picture stored bottom up: the lesion is denser than the surrounding lung."""
    indexed = manifest.index_batch(real_data / "intake-faults/prone-and-flipped", tmp_path, lung)
    assert not indexed.refused
    grids = lesion_grid.read_grids(tmp_path / lesion_grid.NAME)
    assert len(grids) == 3
    for unit, grid in grids.items():
        row = indexed.manifest.set_index("unit_id").loc[unit]
        plane = read_scan("scan", (tmp_path / row["file"]).read_bytes()).pixels[0]
        small = plane.reshape(32, 4, 32, 4).mean((1, 3))
        assert small[grid > 250].mean() > -100, unit
    assert (indexed.manifest["geometry"] == geometry.UNUSUAL).tolist() == [False, True, True]


def test_an_old_outline_is_doubted_for_an_unusual_orientation() -> None:
    usual = read_scan("scan", next(slices(body(), standard())))
    assert geometry.outline_doubt(usual) == geometry.slice_doubt(usual) == ""
    assert "6 slices" in geometry.slice_doubt(read_scan("scan", nifti(body(), standard())))
    volume, stored_affine = stored(body(), standard(), ((0, 1, 2), (1, -1, -1)))
    assert "RAS" in geometry.outline_doubt(read_scan("scan", next(slices(volume, stored_affine))))
    assert geometry.outline_doubt(read_scan("scan", nifti(body(), standard(), ((0, 1, 2), (1, -1, -1))))) == ""
    assert "directions" in geometry.outline_doubt(read_scan("scan", nifti(body(), standard(), ((2, 1, 0), (1, 1, 1)))))
