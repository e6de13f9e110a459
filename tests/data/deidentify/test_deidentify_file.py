from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from data.core_types import Modality, PixelSettings, Pooling, Task
from data.deidentify.deidentify_file import deidentify_file
from data.phantom import batch
from data.phantom import study as phantom_study
from data.phantom.files import dicom as phantom_dicom
from data.scan.read import read_scan
from lineage import keys
from lineage.errors import Fault

LUNG = Task(
    "lung-ct",
    "Lung",
    "lung",
    Modality.CT,
    ("CHEST",),
    ("normal", "benign", "malignant"),
    ("malignant",),
    "slice",
    "patient",
    False,
    PixelSettings(128, (-400.0, 1500.0)),
    Pooling("topk", 3),
    0.9,
    "",
)
BRAIN = Task(
    "brain-mr",
    "Brain",
    "brain",
    Modality.MR,
    ("BRAIN",),
    ("no_tumour", "tumour"),
    ("tumour",),
    "slice",
    "patient",
    False,
    PixelSettings(128, None),
    Pooling("topk", 3),
    0.9,
    "",
)
STUDY = phantom_study.make_study(LUNG, phantom_study.usual_scanner(LUNG), 5, 0, "malignant")


def dicom(index: int = 0, **attributes: Any) -> bytes:
    """A phantom file with its planted identity and the given attributes."""
    pixels, pixel = STUDY.slice(index, 2)
    image = pydicom.dcmread(io.BytesIO(phantom_dicom(STUDY, pixels, pixel, index)))
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    stream = io.BytesIO()
    image.save_as(stream)
    return stream.getvalue()


def opened(content: bytes) -> Any:
    return pydicom.dcmread(io.BytesIO(content))


@pytest.mark.usefixtures("home")
def test_no_byte_of_the_identity_remains() -> None:
    person = STUDY.person
    family, first_name = person.name.split("^")
    content = dicom(PatientComments=f"{first_name} called", OperatorsName=f"{family}^Op", ImageComments=person.id)
    nested = opened(content)
    item, inner_item = Dataset(), Dataset()
    inner_item.PersonName, inner_item.TextValue = person.name, f"seen by {family}"
    item.ContentSequence = [inner_item]
    nested.ContentSequence = [item]
    stream = io.BytesIO()
    nested.save_as(stream)
    planted = stream.getvalue().lower()
    _, clean = deidentify_file("a.dcm", stream.getvalue(), {"patient_id": person.id})
    for secret in (
        family,
        first_name,
        person.id,
        "House",
        "Hospital",
        person.day.strftime("%Y%m%d"),
        STUDY.person.id[3:],
    ):
        assert secret.lower().encode() in planted, f"{secret} was not planted"
        assert secret.lower().encode() not in clean.lower(), f"{secret} remains"


@pytest.mark.usefixtures("home")
def test_the_attributes_of_the_standard_state_the_method() -> None:
    header = opened(deidentify_file("a.dcm", dicom(), {"patient_id": STUDY.person.id})[1])
    assert header.PatientIdentityRemoved == "YES" and header.DeidentificationMethod
    codes = [code.CodeValue for code in header.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107", "113108"] and header.LongitudinalTemporalInformationModified == "MODIFIED"
    assert header.PatientID == keys.pseudonym(STUDY.person.id)
    for keyword in ("PatientBirthDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"):
        assert keyword in header and not header.get(keyword)
    assert not any(element.tag.is_private for element in header.iterall())


@pytest.mark.usefixtures("home")
def test_pixels_and_facts_of_the_scan_are_unchanged() -> None:
    content = dicom()
    before, after = (
        read_scan("a.dcm", content),
        read_scan("b.dcm", deidentify_file("a.dcm", content, {"patient_id": "x"})[1]),
    )
    np.testing.assert_array_equal(before.pixels, after.pixels)
    assert before.spacing == after.spacing and before.units == after.units
    for fact in ("body_part", "manufacturer", "model", "kernel", "sex", "age", "position", "orientation"):
        assert before.header[fact] == after.header[fact]
    assert before.header["series"] != after.header["series"]


@pytest.mark.usefixtures("home")
def test_uids_and_dates_stay_consistent() -> None:
    first, second = (opened(deidentify_file("a.dcm", dicom(index), {"patient_id": "MRN1"})[1]) for index in (0, 1))
    assert first.SeriesInstanceUID == second.SeriesInstanceUID and first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SOPInstanceUID == first.file_meta.MediaStorageSOPInstanceUID
    original = opened(dicom())
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert first.get(keyword) != original.get(keyword) and pydicom.uid.UID(first.get(keyword)).is_valid
    moved = (np.datetime64(_iso_date(first.StudyDate)) - np.datetime64(_iso_date(original.StudyDate))).astype(int)
    assert moved == keys.day_shift("MRN1") and first.StudyDate == first.ContentDate


def _iso_date(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"


@pytest.mark.usefixtures("home")
def test_ages_above_90_become_90_and_retained_text_does_not_identify() -> None:
    family = STUDY.person.name.split("^")[0]
    header = opened(deidentify_file("a.dcm", dicom(PatientAge="097Y", ConvolutionKernel=f"{family} special"), {})[1])
    assert header.PatientAge == "090Y" and not header.ConvolutionKernel
    assert header.PatientID == keys.pseudonym(STUDY.person.id)  # no metadata: the identity of the header


@pytest.mark.usefixtures("home")
def test_the_file_name_does_not_change_the_de_identified_bytes() -> None:
    content = dicom()
    first, second = (deidentify_file(name, content, {"patient_id": "x"}) for name in ("DOE_JANE.dcm", "other"))
    assert first == second and first[0] == ".dcm"


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("is_compressed", [False, True])
def test_nifti_header_text_and_extensions_are_removed(is_compressed: bool) -> None:
    import nibabel

    image = nibabel.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    for field, size in (("descrip", 80), ("aux_file", 24), ("intent_name", 16), ("db_name", 18)):
        image.header[field] = b"Quillfeather"[:size]
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Quillfeather, Zelda"))
    plain = image.to_bytes() + b"Quillfeather"
    content = gzip.compress(plain) if is_compressed else plain
    if is_compressed:  # the gzip header can hold a file name
        content = content[:3] + b"\x08" + content[4:10] + b"Quillfeather.nii\0" + content[10:]
    suffix, clean = deidentify_file("Quillfeather.nii", content, {})
    plain_clean = gzip.decompress(clean) if is_compressed else clean
    assert b"Quillfeather" in content and b"Quill" not in clean and b"Quill" not in plain_clean
    np.testing.assert_array_equal(read_scan("a", clean).pixels, read_scan("a", content).pixels)
    assert suffix == (".nii.gz" if is_compressed else ".nii")


@pytest.mark.usefixtures("home")
def test_exif_and_comments_of_a_jpeg_are_removed_and_pixels_are_unchanged() -> None:
    from PIL import Image

    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x013B] = "Quillfeather"
    grey = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    Image.fromarray(grey).save(stream, "JPEG", exif=exif, comment=b"Quillfeather", progressive=True, quality=80)
    content = stream.getvalue() + b"Quillfeather"
    _, clean = deidentify_file("a.jpg", content, {})
    assert content.count(b"Quillfeather") == 3 and b"Quill" not in clean and b"Exif" not in clean
    np.testing.assert_array_equal(read_scan("a", clean).pixels, read_scan("a", content).pixels)


@pytest.mark.usefixtures("home")
def test_text_of_a_png_is_removed_and_pixels_are_unchanged() -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    text_chunks = PngInfo()
    text_chunks.add_text("Patient", "Quillfeather")
    text_chunks.add_itxt("More", "Quillfeather", zip=True)
    stream = io.BytesIO()
    grey = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    Image.fromarray(grey).save(stream, "PNG", pnginfo=text_chunks)
    content = stream.getvalue() + b"Quillfeather"
    _, clean = deidentify_file("a.png", content, {})
    assert b"Quill" not in clean and zlib.compress(b"Quillfeather")[2:8] not in clean
    np.testing.assert_array_equal(read_scan("a", clean).pixels, read_scan("a", content).pixels)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("kind", ["a.dcm", "a.nii.gz", "a.jpg", "a.png"])
def test_damaged_files_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    damaged = {
        "a.dcm": lambda: b"\0" * 128 + b"DICM" + b"\xff" * 40,
        "a.nii.gz": lambda: _volume(tmp_path)[:200],
        "a.jpg": lambda: b"\xff\xd8\xff\xe0\x00\x04ab\xff\xda\x00\x04ab",
        "a.png": lambda: b"\x89PNG\r\n\x1a\n\x00\x00\x00\xff",
    }
    with pytest.raises(Fault, match=f"^{kind}: "):
        deidentify_file(kind, damaged[kind](), {"patient_id": "x"})


def _volume(folder: Path) -> bytes:
    study = phantom_study.make_study(BRAIN, phantom_study.usual_scanner(BRAIN), 5, 0, "tumour")
    batch.write_study(folder, study, "v", 2)
    return (folder / "v.nii.gz").read_bytes()


@pytest.mark.usefixtures("home")
def test_the_name_in_a_phantom_volume_is_removed(tmp_path: Path) -> None:
    content = _volume(tmp_path)
    name = phantom_study.make_study(BRAIN, phantom_study.usual_scanner(BRAIN), 5, 0, "tumour").person.name.encode()
    assert name in gzip.decompress(content)
    assert name not in gzip.decompress(deidentify_file("v.nii.gz", content, {"patient_id": "x"})[1])


@pytest.mark.usefixtures("home")
def test_pixels_of_real_files_are_unchanged(real_data: Path) -> None:
    """Every third file of the zoo: compressed, enhanced, big-endian, colour, palette, segmentations."""
    checked = 0
    for path in sorted((real_data / "dicom-zoo/decodes").iterdir())[::3]:
        content = path.read_bytes()
        before = read_scan(path.name, content)
        suffix, clean = deidentify_file(path.name, content, {})
        after = read_scan(suffix, clean)
        np.testing.assert_array_equal(before.pixels, after.pixels, err_msg=path.name)
        assert (before.units, before.spacing) == (after.units, after.spacing)
        checked += 1
    assert checked > 40
