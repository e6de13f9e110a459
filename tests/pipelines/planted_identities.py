"""Invented identities in every place of a file where they occur, and a search of every byte for them."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import subprocess
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

NAME, GIVEN, MRN, ACCESSION = "Quillfeather", "Zeldamira", "MRN77418529", "ACC88932147"
BORN, CLINIC, STREET, DOCTOR = "19630717", "Wolkenstein", "Königsgäßchen", "Hexelbarth"
SECRETS = (NAME, GIVEN, MRN, ACCESSION, BORN, CLINIC, STREET, DOCTOR, "1963-07-17")
FILE = f"{NAME}_{GIVEN}"


def read_dicom(content: bytes) -> Any:
    return pydicom.dcmread(io.BytesIO(content))


def dicom_bytes(header: Any) -> bytes:
    stream = io.BytesIO()
    header.save_as(stream)
    return stream.getvalue()


def dicom_with_identity(content: bytes) -> bytes:
    """A DICOM file with the identity in top-level elements, nested sequences, private blocks, overlays and texts."""
    header = read_dicom(content)
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientName, header.PatientID, header.PatientBirthDate = f"{NAME}^{GIVEN}", MRN, BORN
    header.AccessionNumber, header.InstitutionName, header.PatientAddress = ACCESSION, f"{CLINIC} Klinik", STREET
    header.ReferringPhysicianName, header.StudyDescription = f"{DOCTOR}^Ivo", f"{NAME}, {GIVEN} {BORN}"
    header.Manufacturer, header.ConvolutionKernel = f"ACME for {GIVEN}", MRN
    header.ImageType = ["ORIGINAL", "PRIMARY", NAME.upper()]
    deep, deeper = Dataset(), Dataset()
    deeper.PersonName, deeper.TextValue = f"{NAME}^{GIVEN}", f"{MRN} {STREET}"
    deep.ContentSequence, deep.CodeMeaning = [deeper], f"as {NAME} wished"
    header.AnatomicRegionSequence = header.RequestAttributesSequence = [deep]
    header.private_block(0x0019, "ACME", create=True).add_new(0x10, "LT", f"{NAME} {ACCESSION}")
    header.add_new((0x6000, 0x4000), "LT", f"{NAME} {DOCTOR}")
    header.PixelData += f"{NAME} {MRN}".encode().ljust(24)
    return dicom_bytes(header)


def jpeg_with_identity(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x013B], exif[0x0112] = f"{NAME} {MRN}", orientation
    grey = np.random.default_rng(0).integers(0, 255, (128, 128), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", exif=exif, comment=f"{GIVEN} {STREET}".encode())
    return stream.getvalue()


def nifti_with_identity(content: bytes) -> bytes:
    plain = bytearray(gzip.decompress(content))
    plain[148:228] = f"{NAME} {GIVEN} {BORN}".encode().ljust(80, b"\0")
    plain[228:252] = MRN.encode().ljust(24, b"\0")
    return gzip.compress(bytes(plain) + f"{ACCESSION} {CLINIC}".encode())


def repeated_identity(count: int) -> bytes:
    """The identity, repeated to `count` bytes."""
    text = f"{NAME} {GIVEN} {MRN} {ACCESSION} ".encode()
    return (text * (count // len(text) + 1))[:count]


def dicom_with_used_spare_bits(content: bytes, syntax: Any) -> bytes:
    """A CT file with the identity in the four unused bits of its 16."""
    header = read_dicom(content)
    pixels = header.pixel_array.astype(np.uint16)
    rows = pixels[20:28]
    letters = np.frombuffer(repeated_identity(rows.size // 2), np.uint8)
    rows |= np.stack([letters >> 4, letters & 15], 1).reshape(rows.shape).astype(np.uint16) << 12
    header.BitsStored, header.HighBit, header.PixelRepresentation = 12, 11, 0
    header.PixelData = pixels.astype("<u2").tobytes()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax == RLELossless:
        header.compress(RLELossless, generate_instance_uid=False)
    elif syntax == JPEG2000Lossless:
        from openjpeg.utils import encode_array

        encoded = encode_array(pixels, bits_stored=16, photometric_interpretation=2, codec_format=0)
        header.PixelData = encapsulate([encoded])
    header.file_meta.TransferSyntaxUID = syntax
    return dicom_bytes(header)


def dicom_with_text_after_frame(content: bytes, syntax: Any) -> bytes:
    """A valid CT file whose compressed frame has the identity in its comments and after its end."""
    header = read_dicom(content)
    pixels, text = header.pixel_array.astype(np.uint16), repeated_identity(64)
    comment = len(text + b"..").to_bytes(2) + text
    if syntax == JPEGBaseline8Bit:
        stream = io.BytesIO()
        Image.fromarray(np.clip(pixels // 8, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=95, comment=text)
        frame, header.BitsAllocated, header.RescaleSlope = stream.getvalue(), 8, "8"
    elif syntax == JPEG2000Lossless:
        from openjpeg.utils import encode_array

        frame = encode_array(pixels, bits_stored=12, photometric_interpretation=2, codec_format=0)
        frame = frame.replace(b"\xff\x90", b"\xff\x64" + comment + b"\xff\x90", 1)
    else:
        header.PixelData = pixels.tobytes()
        header.compress(RLELossless, generate_instance_uid=False)
        frame = next(generate_frames(header.PixelData, number_of_frames=1))
    header.BitsStored, header.PixelRepresentation = min(12, int(header.BitsAllocated)), 0
    header.HighBit = header.BitsStored - 1
    header.PixelData = encapsulate([frame + text])
    header["PixelData"].is_undefined_length = True
    header.file_meta.TransferSyntaxUID = syntax
    return dicom_bytes(header)


def dicom_with_text_in_padding(content: bytes) -> bytes:
    """A CT file whose padding contains the identity, one character per pixel."""
    header = read_dicom(content)
    pixels = header.pixel_array.copy()
    rows = pixels[:12]
    rows[...] = np.frombuffer(repeated_identity(rows.size), np.uint8).reshape(rows.shape).astype(np.int16) - 2048
    header.add_new("PixelPaddingValue", "SS", -2048)
    header.add_new("PixelPaddingRangeLimit", "SS", -1793)
    header.PixelData = pixels.tobytes()
    return dicom_bytes(header)


def zipped(first: bytes, second: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"{FILE}/{MRN}-1.dcm", first)
        archive.writestr(f"{FILE}/{MRN}-2.dcm", second)
        archive.comment = NAME.encode()
    return stream.getvalue()


def encoded_forms(secrets: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """Every secret in every likely encoding, in lower case."""
    encoded = []
    for secret in secrets:
        variants = {secret.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1")}
        variants |= {quote(secret).encode(), json.dumps(secret)[1:-1].encode(), secret.encode("unicode_escape")}
        encoded += [(secret, form.lower()) for form in sorted(variants)]
    return encoded


def inflated(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """A file's bytes, and the bytes that are packed in them: gzip, zip, zlib."""
    yield name, content
    for start, kind in ((b"\x1f\x8b", 31), (b"\x78", 15)):
        if content.startswith(start):
            try:
                yield f"{name} (inflated)", zlib.decompressobj(kind).decompress(content)
            except zlib.error:  # only the first bytes match
                return
    if content.startswith(b"PK\x03\x04"):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from inflated(f"{name}/{member}", archive.read(member))
    if content[128:132] == b"DICM":
        with contextlib.suppress(Exception):  # only the bytes of an invalid file are searched
            yield from decoded(name, content)


def decoded(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The samples of a DICOM file: all bytes, low bytes, unused bits and every bit plane; and a deflated data set."""
    header = read_dicom(content)
    if header.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        start = 144 + int.from_bytes(content[140:144], "little")
        yield f"{name} (inflated)", zlib.decompressobj(-15).decompress(content[start:])
    samples = pixel_array(header, correct_unused_bits=False)
    samples = samples.astype(f"<u{samples.dtype.itemsize}").ravel()
    yield f"{name} (samples)", samples.tobytes()
    yield f"{name} (low bytes)", (samples & 0xFF).astype(np.uint8).tobytes()
    spare = (samples[: samples.size // 2 * 2] >> int(header.BitsStored)).astype(np.uint8)
    yield f"{name} (spare bits)", (spare[0::2] << 4 | spare[1::2] & 15).astype(np.uint8).tobytes()
    for bit in range(int(header.BitsAllocated)):
        yield f"{name} (bit {bit})", np.packbits((samples >> bit & 1).astype(np.uint8)).tobytes()


def search(contents: Iterator[tuple[str, bytes]], secrets: tuple[str, ...] = SECRETS) -> set[tuple[str, str]]:
    """(secret, name) for every content with a secret in its bytes or in its name."""
    encoded_secrets = encoded_forms(secrets)
    hits = set()
    for name, content in contents:
        lower, lower_name = content.lower(), name.lower().encode("utf-8", "surrogateescape")
        hits |= {(secret, name) for secret, form in encoded_secrets if form in lower or form in lower_name}
    return hits


def files_below(folder: Path, but: Path) -> Iterator[tuple[str, bytes]]:
    """Every file and folder name below a folder except `but`, with packed bytes; git's objects unpacked."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and but not in path.parents:
            with contextlib.suppress(FileNotFoundError):  # a running server may delete it
                yield from inflated(str(path.relative_to(folder)), path.read_bytes())
        elif path.is_dir() and path != but and but not in path.parents:
            yield str(path.relative_to(folder)), b""
    for repository in folder.rglob(".git"):
        command = ["git", "cat-file", "--batch-all-objects", "--batch"]
        yield "git", subprocess.run(command, cwd=repository.parent, capture_output=True, check=True).stdout


def unpacked_files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder, and its packed bytes."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield from inflated(path.name, path.read_bytes())
