"""Hostile scans and archives, and checks of the served release: memory, files, and whether it still answers."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless

from serving.bundle import bento_server
from tests.serving.conftest import Endpoint, dicom, png

GROWTH = 60e6  # bytes that a worker may grow by, after it has read the largest allowed scan once


def workers(endpoint: Endpoint) -> list[psutil.Process]:
    """The worker processes of a server."""
    children = psutil.Process(endpoint.server.process.pid).children(recursive=True)
    return [child for child in children if "_bentoml_impl.worker.service" in child.cmdline()]


def resident(endpoint: Endpoint) -> dict[int, int]:
    """Bytes of memory of each worker."""
    return {worker.pid: worker.memory_info().rss for worker in workers(endpoint)}


def state_files(endpoint: Endpoint, served_home: Path) -> set[str]:
    """All files below the state folder except databases and logs; the workers' temporary files are there too."""
    for worker in workers(endpoint):
        assert Path(worker.environ()["TMPDIR"]).is_relative_to(served_home)
        assert [file.path for file in worker.open_files() if "/run/serve-" in file.path] == []
    return {str(path) for path in served_home.rglob("*") if path.suffix not in (".db", ".db-wal", ".db-shm", ".log")}


def still_answers(endpoint: Endpoint) -> bool:
    """Whether the release answers a usual scan correctly, on eight new connections, to reach every worker."""
    headers = bento_server.request_headers(endpoint.token) | {"Content-Type": "application/dicom"}
    address = f"{endpoint.server.url}/predict"
    responses = [httpx.post(address, content=dicom(True), headers=headers, timeout=30) for _ in range(8)]
    return all(response.status_code == 200 and response.json()["answer"] == "tumour" for response in responses)


def send_largest_scan(endpoint: Endpoint) -> None:
    """Let every worker answer the largest allowed scan twice, because its allocator keeps some of the memory."""
    headers = bento_server.request_headers(endpoint.token)
    large = picture(8_000, 8_000)
    before = {worker.pid: worker.cpu_times().user for worker in workers(endpoint)}
    answer_counts = dict.fromkeys(before, 0)
    for _ in range(60):  # a worker accepts the next connection by chance; its CPU time shows which one
        files = {"files": ("blank.png", large)}
        httpx.post(f"{endpoint.server.url}/predict", files=files, data={"task": "tiny-mr"}, headers=headers, timeout=60)
        after = {worker.pid: worker.cpu_times().user for worker in workers(endpoint)}
        busiest = max(after, key=lambda pid: after[pid] - before[pid])
        answer_counts[busiest] += 1
        before = after
        if min(answer_counts.values()) >= 2:
            return
    raise AssertionError(f"scans that each worker read: {answer_counts}")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def picture(width: int, height: int, rows: int | None = None) -> bytes:
    """A grey PNG that declares this size, and contains `rows` rows of zeros (all rows by default)."""
    packer = zlib.compressobj(9)
    row_count = height if rows is None else rows
    pixels = b"".join(packer.compress(bytes(width + 1)) for _ in range(row_count)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(rows: int, columns: int) -> bytes:
    """The header of a JPEG of that size, without pixel data."""
    frame = struct.pack(">HBHHBBBB", 11, 8, rows, columns, 1, 1, 0x11, 0)
    return b"\xff\xd8\xff\xe0\x00\x04JF" + b"\xff\xc0" + frame + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + bytes(99)


def nifti(shape: tuple[int, ...], kind: int = 16, pixels: bytes = b"", **fields: Any) -> bytes:
    """A NIfTI-1 header with these dimensions (kind 16: float32), and pixels after it."""
    import nibabel

    header = nibabel.Nifti1Header()
    header["dim"] = [len(shape), *shape, *[1] * (7 - len(shape))]
    header["datatype"], header["bitpix"], header["vox_offset"], header["magic"] = kind, 32, 352, b"n+1"
    header["pixdim"] = 1
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + bytes(4) + pixels


def change_dataset(change: Callable[[Dataset], None]) -> bytes:
    """A DICOM slice after any change, also one that the standard forbids."""
    image = dcmread(io.BytesIO(dicom(True)))
    change(image)
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=False)
    return stream.getvalue()


def floating(values: np.ndarray) -> bytes:
    """A DICOM slice of float pixels (PS3.5, section 8.2.1), rows × columns."""

    def change(image: Dataset) -> None:
        del image.PixelData
        image.Rows, image.Columns = values.shape
        image.BitsAllocated = 32
        image.FloatPixelData = values.astype("<f4").tobytes()

    return change_dataset(change)


def _huge_codestream(image: Dataset) -> None:
    from pydicom.encaps import encapsulate

    size = struct.pack(">HHIIIIIIIIHBBB", 41, 0, 90_000, 90_000, 0, 0, 90_000, 90_000, 0, 0, 1, 7, 1, 1)
    image.file_meta.TransferSyntaxUID = JPEG2000Lossless
    image.PixelData = encapsulate([b"\xff\x4f\xff\x51" + size + bytes(200)])
    image["PixelData"].is_undefined_length = True


def _deep(image: Dataset) -> None:
    for _ in range(300):
        inner = Dataset()
        inner.RequestAttributesSequence = image.get("RequestAttributesSequence", [])
        image.RequestAttributesSequence = [inner]


def _deflated() -> bytes:
    plain = dicom(True)
    end = 144 + int.from_bytes(plain[140:144], "little")
    meta = plain[:end].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    meta = meta.replace(b"UI\x14\x001.2.840.10008.1.2.1.99", b"UI\x16\x001.2.840.10008.1.2.1.99")
    packer = zlib.compressobj(9, wbits=-15)
    body = b"".join(packer.compress(bytes(2**24)) for _ in range(40)) + packer.flush()
    return meta[:140] + struct.pack("<I", len(meta) - 144) + meta[144:] + body


def packed(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def _overlapping() -> bytes:
    """Ten directory entries that all refer to the same bytes (Fifield, WOOT 2019)."""
    plain = packed(("a.png", os.urandom(9000)))
    directory_start = plain.index(b"PK\x01\x02")
    entry, end = plain[directory_start : plain.index(b"PK\x05\x06")], bytearray(plain[plain.index(b"PK\x05\x06") :])
    directory = b"".join(entry.replace(b"a.png", f"{number}.png".encode()) for number in range(10))
    end[8:20] = struct.pack("<HHII", 10, 10, len(directory), directory_start)
    return plain[:directory_start] + directory + bytes(end)


def _link() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        link = zipfile.ZipInfo("a.dcm")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return stream.getvalue()


def _flag(bits: int) -> bytes:
    content = bytearray(packed(("a.dcm", dicom(True))))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= bits
    return bytes(content)


def scans() -> dict[str, bytes]:
    """Files that are not scans, or that declare more than they contain."""
    return {
        "png of 100,000 square": picture(100_000, 100_000, 1),
        "png of one long row": picture(60_000, 1),
        "png cut short": png(True)[:-40],
        "jpeg of 65,500 square": jpeg(65_500, 65_500),
        "jpeg of nothing": b"\xff\xd8\xff\xd9",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "html": b"<!doctype html><script>alert(1)</script>",
        "xml of many laughs": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "' + b"ha" * 999 + b'">]><x>&a;</x>',
        "tiff": b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 256, 4, 1, 4_000_000_000) + bytes(64),
        "gif": b"GIF89a\xff\xff\xff\xff\0\0\0",
        "webp": b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(64),
        "elf": b"\x7fELF" + bytes(500),
        "pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
        "nothing": b"",
        "zeros": bytes(100_000),
        "nifti of 32,767 cubed": nifti((32_767,) * 3),
        "nifti of seven axes": nifti((99,) * 7),
        "nifti of less than nothing": nifti((-5, 8, 8)),
        "nifti whose pixels lie far away": nifti((8, 8, 8), pixels=bytes(2048), vox_offset=1e18),
        "nifti of no numbers": nifti((8, 8, 8), pixels=np.full(512, np.nan, "<f4").tobytes()),
        "gzip of two gigabytes": gzip.compress(nifti((1024, 1024, 512)) + bytes(2**26)) * 16,
        "gzip shorter than it says": gzip.compress(nifti((512, 512, 400)) + bytes(2**26)),
        "gzip of nothing": gzip.compress(b""),
        "dicom of 65,535 square": change_dataset(lambda image: image.update({"Rows": 65_535, "Columns": 65_535})),
        "dicom of a billion frames": change_dataset(lambda image: image.update({"NumberOfFrames": 999_999_999})),
        "dicom of no rows": change_dataset(lambda image: image.update({"Rows": 0})),
        "dicom whose codestream is huge": change_dataset(_huge_codestream),
        "dicom that inflates": _deflated(),
        "dicom without its end": dicom(True)[:900],
        "dicom of nothing": bytes(128) + b"DICM",
    }


def archives() -> dict[str, bytes]:
    """Zip archives that harm a reader without checks."""
    return {
        "inflates a thousandfold": packed(("a.png", bytes(2**27))),
        "an archive inside": packed(("inner.zip", packed(("a.dcm", dicom(True))))),
        "itself inside by another name": packed(("a.dcm", packed(("a.dcm", dicom(True))))),
        "20,000 members": packed(*((f"{number}.dcm", b"") for number in range(20_000)), method=zipfile.ZIP_STORED),
        "overlapping": _overlapping(),
        "a link": _link(),
        "encrypted": _flag(1),
        "up and away": packed(("../../evil.dcm", dicom(True))),
        "from the root": packed(("/etc/evil.dcm", dicom(True))),
        "a name with an end": packed(("a\x1b[2Jb.dcm", dicom(True))),
        "two kinds": packed(("a.dcm", dicom(True)), ("b.png", png(True))),
        "no member": packed(),
        "no directory": packed(("a.dcm", dicom(True)))[:-60],
        "only its start": b"PK\x03\x04" + bytes(40),
    }
