"""The desk in a real browser: send a scan, and see its answer with the heat map over the scan."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from lineage import accounts

pytestmark = pytest.mark.usefixtures("release")
RAMP = np.add.outer(np.arange(24), np.arange(24) * 2).astype(np.int16)  # brighter to the right than downwards


@pytest.fixture
def desk_page(chromium: Any, desk_url: str) -> Iterator[Any]:
    """A page signed in as the clinician; any error in the browser fails the test."""
    context = chromium.new_context(viewport={"width": 1100, "height": 900})
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda entry: errors.append(entry.text) if "Security Policy" in entry.text else None)
    page.goto(f"{desk_url}/enter?token={accounts.invite('cleo')}")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{desk_url}/")
    yield page
    context.close()
    assert errors == []


def dicom(stored: np.ndarray, position: float, explicit: bool, **attributes: Any) -> bytes:
    """One CT slice with a nested sequence of undefined length before its pixels; attributes replace others."""
    import io

    import pydicom
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    scan = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    scan.Rows, scan.Columns = stored.shape
    scan.SamplesPerPixel, scan.BitsAllocated, scan.BitsStored, scan.HighBit = 1, 16, 16, 15
    scan.PixelRepresentation, scan.PhotometricInterpretation = 1, "MONOCHROME2"
    scan.RescaleSlope, scan.RescaleIntercept = 2, -40
    scan.WindowCenter, scan.WindowWidth = 29, 138  # -40 to 98: the range of the ramp times 2 minus 40
    scan.ImageOrientationPatient, scan.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, position]
    inner = Dataset()
    inner.CodeValue, inner.ReferencedImageSequence = "x", pydicom.Sequence([Dataset()])
    scan.ProcedureCodeSequence = pydicom.Sequence([inner])
    scan["ProcedureCodeSequence"].is_undefined_length = True
    scan.PixelData = stored.astype("<i2").tobytes()
    for keyword, value in attributes.items():
        setattr(scan, keyword, value)
    stream = io.BytesIO()
    scan.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def nifti(volume: np.ndarray) -> bytes:
    """A gzipped NIfTI-1 volume (x, y, z) whose first axis runs to the right and second to the front."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *volume.shape, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    struct.pack_into("<hh", header, 252, 0, 1)
    for axis in range(3):
        struct.pack_into("<f", header, 280 + 20 * axis, 1.0)
    header[344:348] = b"n+1\0"
    return gzip.compress(bytes(header) + volume.astype("<i2").tobytes(order="F"))


def ask(page: Any, *files: tuple[str, bytes]) -> None:
    """Select the files and send them."""
    selected = [{"name": name, "mimeType": "", "buffer": content} for name, content in files]
    page.set_input_files("#files", [entry | {"mimeType": _type(entry["name"])} for entry in selected])
    page.click("#send")
    page.wait_for_selector("#result:not([hidden])", timeout=15_000)


def _type(name: str) -> str:
    return "image/png" if name.endswith(".png") else "application/octet-stream"


def drawn_pixels(page: Any) -> np.ndarray:
    """The grey values on the page's canvas."""
    script = """() => {
      const canvas = document.getElementById('scan-view');
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return [canvas.height, canvas.width, Array.from(data.filter((_, position) => position % 4 === 0))];
    }"""
    height, width, values = page.evaluate(script)
    return np.array(values, float).reshape(height, width)


def are_alike(pixels: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two slices are equal up to brightness and contrast."""
    return bool(pixels.shape == expected.shape and np.corrcoef(pixels.ravel(), expected.ravel())[0, 1] > 0.999)


def test_a_picture_is_answered_with_the_map_over_it(desk_page: Any, picture: bytes) -> None:
    desk_page.reload()
    ask(desk_page, ("scan.png", picture))
    assert "Malignant" in desk_page.inner_text("#card h2") and "82 %" in desk_page.inner_text("#card")
    assert are_alike(drawn_pixels(desk_page), np.add.outer(np.arange(24), np.arange(24)) * 5.0)
    box, frame = desk_page.locator("#map").bounding_box(), desk_page.locator("#frame").bounding_box()
    assert all(abs(box[side] - frame[side]) < 1 for side in box), "the map covers the model's square input"
    desk_page.click("text=Printable report")
    assert desk_page.inner_text("h1").startswith("Report") and "82 %" in desk_page.inner_text("article")


@pytest.mark.parametrize("explicit", [True, False])
def test_a_dicom_slice_is_drawn_with_its_window(desk_page: Any, explicit: bool) -> None:
    desk_page.reload()
    ask(desk_page, ("slice.dcm", dicom(RAMP, 0, explicit)))
    assert are_alike(drawn_pixels(desk_page), RAMP.astype(float)) and drawn_pixels(desk_page).max() == 255


def test_overlay_bits_and_padding_are_not_drawn(desk_page: Any) -> None:
    inside = np.s_[2:-2, 2:-2]
    padded = np.full_like(RAMP, 32767)
    padded[inside] = RAMP[inside]
    overlay = RAMP.copy()
    overlay[4:9] |= 0x4000
    desk_page.reload()
    ask(desk_page, ("slice.dcm", dicom(padded, 0, False, PixelPaddingValue=32767, WindowWidth=None, WindowCenter=None)))
    assert (
        are_alike(drawn_pixels(desk_page)[inside], RAMP[inside].astype(float)) and drawn_pixels(desk_page)[0].max() == 0
    )
    desk_page.reload()
    ask(desk_page, ("slice.dcm", dicom(overlay, 0, True, BitsStored=12, HighBit=11)))
    assert are_alike(drawn_pixels(desk_page), RAMP.astype(float))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_picture_is_drawn_in_the_models_orientation(desk_page: Any, orientation: int) -> None:
    import io

    from PIL import Image

    from data.scan import read

    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray((RAMP[:, :18] * 3).astype(np.uint8)).save(stream, "PNG", exif=exif)
    desk_page.reload()
    ask(desk_page, ("scan.png", stream.getvalue()))
    assert are_alike(drawn_pixels(desk_page), read.read_scan("scan.png", stream.getvalue()).pixels[0])


def test_a_series_shows_the_slice_of_the_map(desk_page: Any) -> None:
    desk_page.reload()
    ask(desk_page, ("b.dcm", dicom(RAMP.T, 9.0, True)), ("a.dcm", dicom(RAMP, 1.0, True)))
    assert are_alike(drawn_pixels(desk_page), RAMP.astype(float)), (
        "slice 0 of the series is the lower one, not the first file"
    )
    assert "Slice 1 of 2" in desk_page.inner_text("#caption")


def test_a_file_that_was_left_out_does_not_shift_the_slices(desk_page: Any, release: Any) -> None:
    """A scout below the slices: the map belongs to the lower slice, not to the scout."""
    release.left_out = [{"file": "scout.dcm", "reason": "a localizer, not a slice"}]
    release.changes = {"reasons": ["warning: 1 file is left out: a localizer, not a slice"]}
    scout, slices = ("scout.dcm", dicom(RAMP.T, -5.0, True)), [("a.dcm", dicom(RAMP, 1.0, True))]
    desk_page.reload()
    ask(desk_page, scout, *slices, ("b.dcm", dicom(RAMP.T, 9.0, True)))
    assert are_alike(drawn_pixels(desk_page), RAMP.astype(float)) and "Slice 1 of 2" in desk_page.inner_text("#caption")
    assert "1 file is left out: a localizer, not a slice" in desk_page.inner_text("#card")
    desk_page.reload()
    ask(desk_page, scout, *slices, ("scout.dcm", dicom(RAMP.T, 9.0, True)))
    assert "The heat map alone" in desk_page.inner_text("#caption"), "two files of that name are ambiguous"


def test_a_volume_is_drawn_in_the_models_orientation(desk_page: Any) -> None:
    from data.scan import read

    volume = np.arange(24)[:, None, None] * 2 + np.arange(20)[None, :, None] + np.zeros((1, 1, 3), int)
    content = nifti(volume)
    desk_page.reload()
    desk_page.select_option("#task", "lung-ct")
    ask(desk_page, ("volume.nii.gz", content))
    assert are_alike(drawn_pixels(desk_page), read.read_scan("volume.nii.gz", content).pixels[0])


@pytest.mark.parametrize("axes", ["RAS", "LPI", "ASR", "PIR", "SAL", "IRA", "ARS", "SRP"])
def test_a_volume_of_any_orientation_is_drawn_in_the_models_orientation(desk_page: Any, axes: str) -> None:
    """The voxel axes run towards these sides, slightly oblique, by sform or by qform."""
    import nibabel

    from data.scan import read

    orientation = nibabel.orientations.axcodes2ornt(axes)
    matrix = np.zeros((4, 4))
    for axis, (patient, sign) in enumerate(orientation):
        matrix[int(patient), axis] = sign * (1 + 0.3 * axis)
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    matrix = tilt @ matrix
    matrix[:, 3] = 5, 6, 7, 1
    volume = np.random.default_rng(2).integers(0, 900, (24, 20, 3)).astype(np.int16)
    image = nibabel.Nifti1Image(volume, matrix)
    by_sform = np.linalg.det(matrix[:3, :3]) > 0
    image.set_sform(matrix, 1 if by_sform else 0)
    image.set_qform(matrix, 0 if by_sform else 1)
    content = gzip.compress(image.to_bytes())
    expected = read.read_scan("volume.nii.gz", content)
    desk_page.reload()
    desk_page.select_option("#task", "lung-ct")
    ask(desk_page, ("volume.nii.gz", content))
    assert are_alike(
        drawn_pixels(desk_page), np.clip(expected.pixels[0], *np.percentile(expected.pixels[0], (1, 99.5)))
    )


def test_frames_with_their_own_positions_are_not_drawn_in_file_order(desk_page: Any) -> None:
    """The model counts frames from the feet; drawing another slice under the map would be wrong."""
    import io

    import pydicom

    scan = pydicom.dcmread(io.BytesIO(dicom(np.concatenate([RAMP, RAMP.T]), 0, True)))
    scan.Rows, scan.NumberOfFrames = len(RAMP), 2
    scan.PerFrameFunctionalGroupsSequence = pydicom.Sequence([])
    for height in (3.0, 0.0):
        frame, place = pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = [0, 0, height]
        frame.PlanePositionSequence = pydicom.Sequence([place])
        scan.PerFrameFunctionalGroupsSequence.append(frame)
    stream = io.BytesIO()
    scan.save_as(stream)
    desk_page.reload()
    ask(desk_page, ("frames.dcm", stream.getvalue()))
    assert not desk_page.is_visible("#scan-view") and desk_page.is_visible("#map")
    assert "places of their own" in desk_page.inner_text("#caption")


def test_a_file_that_cannot_be_drawn_shows_the_map_alone_with_a_reason(desk_page: Any) -> None:
    desk_page.reload()
    ask(desk_page, ("scan.bin", b"something else altogether" * 20))
    assert not desk_page.is_visible("#scan-view") and desk_page.is_visible("#map")
    assert "The heat map alone" in desk_page.inner_text("#caption")


def test_a_refusal_is_shown_and_announced(desk_page: Any, release: Any, picture: bytes) -> None:
    release.problem = (422, "scan.png: is too small; send the whole slice")
    desk_page.reload()
    desk_page.set_input_files("#files", [{"name": "scan.png", "mimeType": "image/png", "buffer": picture}])
    desk_page.click("#send")
    desk_page.wait_for_selector("#problem:not([hidden])")
    assert desk_page.inner_text("#problem[role=alert]") == "scan.png: is too small; send the whole slice"


def test_positive_negative_and_withheld_answers_have_different_colours(
    desk_page: Any, release: Any, picture: bytes
) -> None:
    colours: list[str] = []
    colour: Callable[[], str] = lambda: desk_page.evaluate(  # noqa: E731
        "() => getComputedStyle(document.querySelector('.answer')).borderLeftColor"
    )
    for changes in ({}, {"answer": "normal", "score": 0.1}, {"answer": None, "outcome": "inconclusive"}):
        release.changes = changes
        desk_page.reload()
        ask(desk_page, ("scan.png", picture))
        colours.append(colour())
    assert len(set(colours)) == 3


def test_the_page_can_be_used_with_the_keyboard_alone(desk_page: Any, picture: bytes) -> None:
    desk_page.reload()
    desk_page.set_input_files("#files", [{"name": "scan.png", "mimeType": "image/png", "buffer": picture}])
    focused = []
    for _ in range(14):
        desk_page.keyboard.press("Tab")
        focused.append(
            desk_page.evaluate("() => document.activeElement.id || document.activeElement.textContent.trim()")
        )
    assert focused[0] == "Skip to the page" and {"files", "task", "send", "Remove"} <= set(focused)
    desk_page.focus("#send")
    desk_page.keyboard.press("Enter")
    desk_page.wait_for_selector("#result:not([hidden])")
    assert desk_page.evaluate("() => document.activeElement.id") == "result"


def test_nothing_overflows_on_a_phone(desk_page: Any, picture: bytes) -> None:
    desk_page.set_viewport_size({"width": 360, "height": 740})
    desk_page.reload()
    ask(desk_page, ("a-file-with-a-very-long-name-as-scanners-like-to-give-them-0001.png", picture))
    for address in ("", "/cases"):
        if address:
            desk_page.goto(desk_page.url.rstrip("/") + address)
        assert desk_page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), address
