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

from data.deidentify.dicom import anonymise
from data.phantom import batch
from data.phantom import study as phantom_study
from data.phantom.files import dicom as phantom_dicom
from data.record import Modality, PixelSettings, Pooling, Task
from data.scan.read import read
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
STUDY = phantom_study.study(LUNG, phantom_study.usual(LUNG), 5, 0, "malignant")


def dicom(index: int = 0, **attributes: Any) -> bytes:
    """A phantom with its planted identity, and more attributes."""
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
def test_no_byte_of_the_identity_is_left() -> None:
    person = STUDY.person
    family, given = person.name.split("^")
    content = dicom(PatientComments=f"{given} called", OperatorsName=f"{family}^Op", ImageComments=person.id)
    nested = opened(content)
    deep, deeper = Dataset(), Dataset()
    deeper.PersonName, deeper.TextValue = person.name, f"seen by {family}"
    deep.ContentSequence = [deeper]
    nested.ContentSequence = [deep]
    stream = io.BytesIO()
    nested.save_as(stream)
    planted = stream.getvalue().lower()
    _, clean = anonymise("a.dcm", stream.getvalue(), {"patient_id": person.id})
    for secret in (family, given, person.id, "House", "Hospital", person.day.strftime("%Y%m%d"), STUDY.person.id[3:]):
        assert secret.lower().encode() in planted, f"{secret} was not planted"
        assert secret.lower().encode() not in clean.lower(), f"{secret} is left"


@pytest.mark.usefixtures("home")
def test_the_standard_s_attributes_say_what_was_done() -> None:
    header = opened(anonymise("a.dcm", dicom(), {"patient_id": STUDY.person.id})[1])
    assert header.PatientIdentityRemoved == "YES" and header.DeidentificationMethod
    codes = [code.CodeValue for code in header.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107", "113108"] and header.LongitudinalTemporalInformationModified == "MODIFIED"
    assert header.PatientID == keys.pseudonym(STUDY.person.id)
    for keyword in ("PatientBirthDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"):
        assert keyword in header and not header.get(keyword)
    assert not any(element.tag.is_private for element in header.iterall())


@pytest.mark.usefixtures("home")
def test_what_describes_the_scan_and_its_pixels_stay() -> None:
    content = dicom()
    before, after = read("a.dcm", content), read("b.dcm", anonymise("a.dcm", content, {"patient_id": "x"})[1])
    np.testing.assert_array_equal(before.pixels, after.pixels)
    assert before.spacing == after.spacing and before.units == after.units
    for fact in ("body_part", "manufacturer", "model", "kernel", "sex", "age", "position", "orientation"):
        assert before.header[fact] == after.header[fact]
    assert before.header["series"] != after.header["series"]


@pytest.mark.usefixtures("home")
def test_uids_and_dates_stay_consistent() -> None:
    first, second = (opened(anonymise("a.dcm", dicom(index), {"patient_id": "MRN1"})[1]) for index in (0, 1))
    assert first.SeriesInstanceUID == second.SeriesInstanceUID and first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SOPInstanceUID == first.file_meta.MediaStorageSOPInstanceUID
    original = opened(dicom())
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert first.get(keyword) != original.get(keyword) and pydicom.uid.UID(first.get(keyword)).is_valid
    moved = (np.datetime64(_iso(first.StudyDate)) - np.datetime64(_iso(original.StudyDate))).astype(int)
    assert moved == keys.day_shift("MRN1") and first.StudyDate == first.ContentDate


def _iso(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"


@pytest.mark.usefixtures("home")
def test_oldest_ages_are_joined_and_kept_text_does_not_betray() -> None:
    family = STUDY.person.name.split("^")[0]
    header = opened(anonymise("a.dcm", dicom(PatientAge="097Y", ConvolutionKernel=f"{family} special"), {})[1])
    assert header.PatientAge == "090Y" and not header.ConvolutionKernel
    assert header.PatientID == keys.pseudonym(STUDY.person.id)  # no metadata: the header's own identity


@pytest.mark.usefixtures("home")
def test_a_file_s_name_leaves_no_trace_in_what_is_kept() -> None:
    content = dicom()
    one, other = (anonymise(name, content, {"patient_id": "x"}) for name in ("DOE_JANE.dcm", "other"))
    assert one == other and one[0] == ".dcm"


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("squeeze", [False, True])
def test_nifti_header_text_and_extensions_are_gone(squeeze: bool) -> None:
    import nibabel

    image = nibabel.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    for field, size in (("descrip", 80), ("aux_file", 24), ("intent_name", 16), ("db_name", 18)):
        image.header[field] = b"Quillfeather"[:size]
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Quillfeather, Zelda"))
    plain = image.to_bytes() + b"Quillfeather"
    content = gzip.compress(plain) if squeeze else plain
    if squeeze:  # the gzip header can hold a file name
        content = content[:3] + b"\x08" + content[4:10] + b"Quillfeather.nii\0" + content[10:]
    ending, clean = anonymise("Quillfeather.nii", content, {})
    inside = gzip.decompress(clean) if squeeze else clean
    assert b"Quillfeather" in content and b"Quill" not in clean and b"Quill" not in inside
    np.testing.assert_array_equal(read("a", clean).pixels, read("a", content).pixels)
    assert ending == (".nii.gz" if squeeze else ".nii")


@pytest.mark.usefixtures("home")
def test_jpeg_loses_exif_and_comments_but_no_pixel() -> None:
    from PIL import Image

    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x013B] = "Quillfeather"
    grey = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    Image.fromarray(grey).save(stream, "JPEG", exif=exif, comment=b"Quillfeather", progressive=True, quality=80)
    content = stream.getvalue() + b"Quillfeather"
    _, clean = anonymise("a.jpg", content, {})
    assert content.count(b"Quillfeather") == 3 and b"Quill" not in clean and b"Exif" not in clean
    np.testing.assert_array_equal(read("a", clean).pixels, read("a", content).pixels)


@pytest.mark.usefixtures("home")
def test_png_loses_its_text_but_no_pixel() -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    told = PngInfo()
    told.add_text("Patient", "Quillfeather")
    told.add_itxt("More", "Quillfeather", zip=True)
    stream = io.BytesIO()
    grey = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    Image.fromarray(grey).save(stream, "PNG", pnginfo=told)
    content = stream.getvalue() + b"Quillfeather"
    _, clean = anonymise("a.png", content, {})
    assert b"Quill" not in clean and zlib.compress(b"Quillfeather")[2:8] not in clean
    np.testing.assert_array_equal(read("a", clean).pixels, read("a", content).pixels)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("kind", ["a.dcm", "a.nii.gz", "a.jpg", "a.png"])
def test_damaged_files_are_faults_by_name(kind: str, tmp_path: Path) -> None:
    whole = {
        "a.dcm": lambda: b"\0" * 128 + b"DICM" + b"\xff" * 40,
        "a.nii.gz": lambda: _volume(tmp_path)[:200],
        "a.jpg": lambda: b"\xff\xd8\xff\xe0\x00\x04ab\xff\xda\x00\x04ab",
        "a.png": lambda: b"\x89PNG\r\n\x1a\n\x00\x00\x00\xff",
    }
    with pytest.raises(Fault, match=f"^{kind}: "):
        anonymise(kind, whole[kind](), {"patient_id": "x"})


def _volume(folder: Path) -> bytes:
    study = phantom_study.study(BRAIN, phantom_study.usual(BRAIN), 5, 0, "tumour")
    batch.write_study(folder, study, "v", 2)
    return (folder / "v.nii.gz").read_bytes()


@pytest.mark.usefixtures("home")
def test_a_phantom_volume_is_cleaned(tmp_path: Path) -> None:
    content = _volume(tmp_path)
    name = phantom_study.study(BRAIN, phantom_study.usual(BRAIN), 5, 0, "tumour").person.name.encode()
    assert name in gzip.decompress(content)
    assert name not in gzip.decompress(anonymise("v.nii.gz", content, {"patient_id": "x"})[1])


@pytest.mark.usefixtures("home")
def test_real_files_keep_every_pixel(real_data: Path) -> None:
    """All that the zoo holds: compressed, enhanced, big-endian, colour, palette, segmentations."""
    checked = 0
    for path in sorted((real_data / "dicom-zoo/decodes").iterdir())[::3]:
        content = path.read_bytes()
        before = read(path.name, content)
        ending, clean = anonymise(path.name, content, {})
        after = read(ending, clean)
        np.testing.assert_array_equal(before.pixels, after.pixels, err_msg=path.name)
        assert (before.units, before.spacing) == (after.units, after.spacing)
        checked += 1
    assert checked > 40
