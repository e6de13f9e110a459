from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_color_lut, apply_modality_lut

from data.core_types import ValueUnit
from data.scan.read import read_scan
from tests.data.scan.test_read import dicom, nifti, picture

ROOT = Path(__file__).resolve().parents[4]
SLACK = 24 * 2**20  # bytes that decoders and tables of pydicom use once, for any file
FACTOR = 4
MEASURE = """
import json, sys
from pathlib import Path
from data.scan.read import read_scan
from lineage.errors import Fault

def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024

warm_up = json.loads(sys.argv[1])
for name in warm_up:
    read_scan(name, Path(name).read_bytes())
for name in sys.stdin.read().splitlines():
    content = Path(name).read_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    try:
        decoded = read_scan("f", content).pixels.nbytes
    except Fault:
        decoded = 0
    print(json.dumps([name, peak() - before, decoded, len(content)]), flush=True)
"""


def decodable_files(real_data: Path) -> list[Path]:
    """The images of the zoo that pydicom decodes, by the zoo's index."""
    with (real_data / "dicom-zoo/index.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["pixel_array"] == "ok" and row["group"] != "fails"]
    return [real_data / "dicom-zoo" / row["file"] for row in rows]


def expected(path: Path) -> tuple[np.ndarray[Any, Any], bool]:
    """The values that pydicom decodes, after the modality LUT or as colours, and whether they are colours."""
    header = pydicom.dcmread(path, force=True)
    stored = header.pixel_array
    shape = (int(header.get("NumberOfFrames") or 1), header.Rows, header.Columns)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        return apply_color_lut(stored, header).reshape(*shape, -1)[..., :3], True
    if int(header.SamplesPerPixel) > 1:
        return stored.reshape(*shape, -1), True
    values = apply_modality_lut(stored, header).reshape(shape).astype(np.float64)
    for frame, group in enumerate(header.get("PerFrameFunctionalGroupsSequence") or []):
        shared = (header.get("SharedFunctionalGroupsSequence") or [{}])[0]
        rule = group.get("PixelValueTransformationSequence") or shared.get("PixelValueTransformationSequence")
        if rule and "RescaleSlope" not in header:
            values[frame] = values[frame] * float(rule[0].RescaleSlope) + float(rule[0].RescaleIntercept)
    return values, False


@pytest.mark.filterwarnings("ignore")
def test_pixels_of_every_decodable_file_are_those_of_pydicom(real_data: Path) -> None:
    kinds: dict[str, int] = {}
    padded = 0
    for path in decodable_files(real_data):
        scan, (values, has_colours) = read_scan(path.name, path.read_bytes()), expected(path)
        kind = scan.header["photometric"]
        kinds[kind] = kinds.get(kind, 0) + 1
        if has_colours:
            scale = 255 / (255 if values.dtype.itemsize == 1 else np.iinfo(values.dtype).max)
            grey = values @ np.array([0.299, 0.587, 0.114]) * scale
            np.testing.assert_allclose(scan.pixels, grey, atol=1e-3, err_msg=path.name)
            assert scan.units == ValueUnit.DISPLAY
            continue
        if kind == "MONOCHROME1" and scan.units != ValueUnit.HU:
            values = values.max() + values.min() - values
        if not np.array_equal(scan.pixels[0], values[0]) and len(values) > 1:  # frames are put in anatomical order
            np.testing.assert_allclose(np.sort(scan.pixels.mean((1, 2))), np.sort(values.mean((1, 2))), rtol=1e-5)
            continue
        if scan.padding is not None:
            padded += 1
            assert (values[scan.padding] < -1500).all() and (scan.pixels[scan.padding] == -1024).all(), path.name
            values[scan.padding] = -1024
        np.testing.assert_allclose(scan.pixels, values, rtol=2e-6, atol=1e-6, err_msg=path.name)
    assert (
        padded == 9
        and sum(kinds.values()) == 202
        and {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB"} <= set(kinds)
    )


@dataclass(frozen=True)
class Measurement:
    """The memory in bytes that reading one file added to the peak of the process, and the sizes of the file."""

    name: str
    peak: int
    decoded: int
    stored: int


def measure(paths: list[Path], warm_up: list[Path]) -> list[Measurement]:
    """Read files in one separate process, after the warm-up files, and measure each."""
    command = [sys.executable, "-c", MEASURE, json.dumps([str(path) for path in warm_up])]
    names = "\n".join(map(str, paths))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536", "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(command, input=names, text=True, capture_output=True, env=environment, cwd=ROOT, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    return [Measurement(*json.loads(line)) for line in run.stdout.splitlines()]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured through Linux's /proc")
def test_no_file_of_the_zoo_needs_more_memory_than_four_times_its_pixels(real_data: Path) -> None:
    files = [path for path in sorted((real_data / "dicom-zoo").rglob("*")) if path.is_file() and path.suffix != ".csv"]
    measurements = measure(files, files[:1])
    assert len(measurements) == len(files) == 236
    assert not [file for file in measurements if file.peak > FACTOR * max(file.decoded, file.stored) + SLACK]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured through Linux's /proc")
def test_no_large_file_of_any_format_needs_more_memory_than_four_times_its_pixels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    grey = random.integers(0, 4000, (64, 512, 512), dtype=np.uint16)  # 64 MiB decoded
    eight_bit = (grey[0:64:4] >> 4).astype(np.uint8).reshape(2048, 2048)
    colours = np.stack([grey[:24] & 255] * 3, -1).astype(np.uint8)
    files = {
        "frames.dcm": dicom(grey, NumberOfFrames=64),
        "inverse.dcm": dicom(grey, NumberOfFrames=64, Modality="CR", PhotometricInterpretation="MONOCHROME1"),
        "colours.dcm": dicom(
            colours[..., 0],
            NumberOfFrames=24,
            SamplesPerPixel=3,
            PlanarConfiguration=0,
            BitsAllocated=8,
            BitsStored=8,
            HighBit=7,
            PhotometricInterpretation="RGB",
            pixel_data=colours.tobytes(),
        ),
        "volume.nii": nifti(grey.transpose(2, 1, 0).astype(np.int16)),
        "volume.nii.gz": gzip.compress(nifti(grey.transpose(2, 1, 0).astype(np.int16)), 1),
        "double.nii": nifti(grey[:32].transpose(2, 1, 0).astype(np.float64)),
        "picture.png": picture(np.tile(eight_bit, (2, 2))),
        "series.zip": _zipped_series(grey),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "warm.dcm").write_bytes(dicom())
    (tmp_path / "warm.nii").write_bytes(nifti(np.ones((4, 4, 2), np.int16)))
    (tmp_path / "warm.png").write_bytes(picture(np.eye(8, dtype=np.uint8)))
    measurements = measure([tmp_path / name for name in files], sorted(tmp_path.glob("warm.*")))
    factors = {Path(file.name).name: round(file.peak / file.decoded, 2) for file in measurements}
    assert len(factors) == len(files) and max(factors.values()) <= FACTOR, factors


def _zipped_series(grey: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for z, plane in enumerate(grey):
            position = {
                "ImagePositionPatient": ["0", "0", str(z)],
                "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
            }
            archive.writestr(f"{z}.dcm", dicom(plane, **position))
    return stream.getvalue()
