"""Hidden bytes in compressed frames are removed, and clean frames are unchanged."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import RLELossless

from data.deidentify.deidentify_file import deidentify_file
from data.scan.dicom import codestream
from data.scan.read import read_scan
from tests.data.scan.test_read import dicom

SECRET = b"Quillfeather"
STORED = np.random.default_rng(0).integers(0, 40, (24, 30)).astype("<u2")


def frame_of(path: Path) -> tuple[Any, bytes]:
    image = pydicom.dcmread(path)
    return image, next(generate_frames(image.PixelData, number_of_frames=1))


def with_frame(image: Any, frame: bytes) -> bytes:
    image.PixelData = encapsulate([frame])
    image["PixelData"].is_undefined_length = True
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def single_frames(real_data: Path) -> list[Path]:
    """A decodable single-frame file of every compressed transfer syntax of the zoo."""
    with (real_data / "dicom-zoo/index.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["pixel_array"] == "ok" and row["group"] == "decodes"]
    paths_by_syntax: dict[str, Path] = {}
    for row in rows:
        path = real_data / "dicom-zoo" / row["file"]
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        syntax = header.file_meta.get("TransferSyntaxUID")
        if syntax is not None and syntax.is_encapsulated and int(header.get("NumberOfFrames") or 1) == 1:
            paths_by_syntax.setdefault(str(syntax), path)
    return list(paths_by_syntax.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("home")
def test_bytes_after_a_picture_are_removed_in_every_syntax(real_data: Path) -> None:
    paths = single_frames(real_data)
    syntaxes = set()
    for path in paths:
        image, frame = frame_of(path)
        syntaxes.add(image.file_meta.TransferSyntaxUID.name)
        expected = read_scan("a.dcm", path.read_bytes()).pixels
        content = with_frame(image, frame + SECRET * 3)
        _, clean = deidentify_file("a.dcm", content, {"patient_id": "x"})
        assert SECRET in content and SECRET[:6] not in clean, path.name
        np.testing.assert_array_equal(read_scan("a.dcm", clean).pixels, expected, err_msg=path.name)
    assert len(syntaxes) >= 9 and any("High-Throughput" in name for name in syntaxes), syntaxes


@pytest.mark.filterwarnings("ignore")
def test_a_clean_frame_is_unchanged_byte_by_byte(real_data: Path) -> None:
    for path in single_frames(real_data):
        image, frame = frame_of(path)
        clean = codestream.clean_frame(frame)
        if image.file_meta.TransferSyntaxUID == RLELossless:
            clean = codestream.clean_rle(frame, int(image.Rows) * int(image.Columns))
            assert clean == frame, path.name
        assert codestream.clean_frame(clean) == clean, path.name


def test_comments_of_tiles_are_zeroed() -> None:
    from openjpeg.utils import encode_array

    frame = encode_array(np.arange(4096, dtype=np.uint16).reshape(64, 64), photometric_interpretation=2, codec_format=0)
    start = frame.index(codestream.SOT)
    length = int.from_bytes(frame[start + 6 : start + 10])
    comment = codestream.COMMENT + (len(SECRET) + 4).to_bytes(2) + b"\0\1" + SECRET
    tile_part = (
        frame[start : start + 6] + (length + len(comment)).to_bytes(4) + frame[start + 10 : start + 12] + comment
    )
    planted = frame[:start] + tile_part + frame[start + 12 :] + SECRET
    from openjpeg import decode

    clean = codestream.clean_jpeg_2000(planted)
    assert SECRET in planted and SECRET not in clean and clean.endswith(codestream.EOC)
    np.testing.assert_array_equal(decode(clean), decode(frame))


def rle_file() -> Any:
    image = pydicom.dcmread(io.BytesIO(dicom(STORED)))
    image.compress(RLELossless, generate_instance_uid=False)
    return image


@pytest.mark.usefixtures("home")
def test_gaps_between_rle_segments_are_removed() -> None:
    image = rle_file()
    frame = next(generate_frames(image.PixelData, number_of_frames=1))
    header = np.frombuffer(frame[:64], "<u4").copy()
    first, second = frame[64 : header[2]], frame[header[2] :]
    header[2] += len(SECRET)
    header[5:8] = np.frombuffer(SECRET, "<u4")
    planted = header.tobytes() + first + SECRET + second
    content = with_frame(image, planted)
    _, clean = deidentify_file("a.dcm", content, {"patient_id": "x"})
    assert content.count(SECRET) == 2 and SECRET not in clean
    np.testing.assert_array_equal(read_scan("a.dcm", clean).pixels, read_scan("a.dcm", dicom(STORED)).pixels)


def test_the_last_rle_run_is_cut_to_the_size_of_the_picture() -> None:
    def segment(runs: bytes) -> bytes:
        return np.array([1, 64, *[0] * 14], "<u4").tobytes() + runs

    assert codestream.clean_rle(segment(bytes([15]) + b"abcd" + SECRET), 4) == segment(bytes([3]) + b"abcd\0")
    assert codestream.clean_rle(segment(bytes([0xFE, 7]) + SECRET), 2) == segment(bytes([0xFF, 7]))
    assert codestream.clean_rle(segment(bytes([0xFE, 7]) + SECRET), 1) == segment(bytes([0, 7]))
    for damaged in (b"", b"x" * 70, np.array([1, 9000, *[0] * 14], "<u4").tobytes(), segment(b"")):
        assert codestream.clean_rle(damaged, 4) == damaged


@pytest.mark.usefixtures("home")
def test_hidden_bytes_in_tables_of_offsets_are_removed() -> None:
    image = rle_file()
    frames = list(generate_frames(image.PixelData, number_of_frames=1))
    image.PixelData = (
        b"\xfe\xff\x00\xe0" + len(SECRET).to_bytes(4, "little") + SECRET + encapsulate(frames, has_bot=False)[8:]
    )
    stream = io.BytesIO()
    image.save_as(stream)
    _, clean = deidentify_file("a.dcm", stream.getvalue(), {"patient_id": "x"})
    assert SECRET in stream.getvalue() and SECRET not in clean
    image.PixelData, image.ExtendedOffsetTable, image.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    stream = io.BytesIO()
    image.save_as(stream)
    _, clean = deidentify_file("a.dcm", stream.getvalue(), {"patient_id": "x"})
    assert "ExtendedOffsetTable" not in pydicom.dcmread(io.BytesIO(clean))
    np.testing.assert_array_equal(read_scan("a.dcm", clean).pixels, read_scan("a.dcm", dicom(STORED)).pixels)


def test_hidden_bytes_in_nan_values_of_a_volume_are_removed() -> None:
    from data.deidentify import other_formats
    from tests.data.scan.test_read import nifti

    volume = np.ones((8, 8, 8), np.float32)
    hidden = np.frombuffer(SECRET, np.uint8).astype(np.uint32) | 0x7FC00000
    volume.ravel()[: len(hidden)] = hidden.view(np.float32)
    content = nifti(volume)
    clean = other_formats.clean_nifti("a.nii", content)
    voxels = np.frombuffer(clean[352:], "<u4")
    assert set(voxels[np.isnan(voxels.view(np.float32))]) == {0x7FC00000}
    np.testing.assert_array_equal(read_scan("a.nii", clean).pixels, read_scan("a.nii", content).pixels)
