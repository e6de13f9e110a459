"""DICOM pixel data without what hides behind the pixels: bytes after the last, spare bits, comments in frames."""

from __future__ import annotations

import io
from typing import Any

from numpy.typing import NDArray

from data import identifiers
from data.scan import padding
from data.scan.dicom import codestream, pixel_values, stored_bits

Array = NDArray[Any]
COLOURS = ("Red", "Green", "Blue")
PALETTES = tuple(
    f"{prefix}{colour}PaletteColorLookupTable{part}"
    for colour in COLOURS
    for prefix, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
)
FLOATS = {"FloatPixelData": 4, "DoubleFloatPixelData": 8}  # bytes of a pixel


def clean(header: Any, keyword: str) -> bytes:
    """One of the three kinds of pixel data of `header`, still encoded, every pixel as it was."""
    stored = bytes(header.get(keyword))
    if keyword != "PixelData":
        pixels = int(header.get("NumberOfFrames") or 1) * int(header.Rows) * int(header.Columns)
        return bytes(stored[: pixels * FLOATS[keyword]])
    syntax = header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None
    if syntax is not None and syntax.is_transfer_syntax and syntax.is_encapsulated:
        return _encapsulated(header, stored)
    return _cut(header, stored)


def rewrite(name: str, header: Any) -> None:
    """Give a data set uncompressed pixel data of the values alone: spare bits empty, padding of one value, in place.

    The transfer syntax stays where it was uncompressed, else it becomes explicit little endian.
    """
    from pydicom.uid import ExplicitVRLittleEndian

    syntax = header.file_meta.TransferSyntaxUID
    keyword = next(keyword for keyword in pixel_values.KEYWORDS if keyword in header)
    place, declared = stored_bits.layout(name, header), padding.declared(name, header)
    is_little = syntax.is_encapsulated or syntax.is_little_endian
    written = []
    for frame in pixel_values.frames(name, header, pixel_values.units(header)):
        values = frame.stored.copy()
        if frame.padding is not None:
            values[frame.padding] = _padding_value(declared, values[frame.padding])
        values = values << place.below if place is not None else values
        written.append(values.astype(values.dtype.newbyteorder("<" if is_little else ">")).tobytes())
    content = b"".join(written)
    representation = {"PixelData": "OB" if header.BitsAllocated <= 8 else "OW", "FloatPixelData": "OF"}
    if int(header.get("SamplesPerPixel") or 1) > 1:
        header.PlanarConfiguration, header.PhotometricInterpretation = 0, "RGB"
    if syntax.is_encapsulated:
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.add_new(keyword, representation.get(keyword, "OD"), content + b"\0" * (len(content) % 2))


def cut_tables(clean: Any) -> None:
    """Cut the look-up tables of a data set, in place, to the entries that their descriptors name (PS3.3 C.11.1.1); a
    picture without a palette keeps none."""
    if "LUTData" in clean:
        _cut_table(clean, "LUTDescriptor", "LUTData")
    kept = identifiers.there(clean, PALETTES)
    if not kept or not clean.get("Rows"):
        return
    if clean.get("PhotometricInterpretation") != "PALETTE COLOR":
        for keyword in kept:
            del clean[keyword]
        return
    for colour in COLOURS:
        _cut_table(clean, *(f"{colour}PaletteColorLookupTable{part}" for part in ("Descriptor", "Data")))


def _cut_table(clean: Any, descriptor: str, data: str) -> None:
    entries, table = clean.get(descriptor), clean.get(data)
    if not entries or table is None:
        return
    count = int(entries[0]) or 2**16
    if isinstance(table, bytes):
        packed = int(entries[2]) <= 8 and len(table) < 2 * count
        clean[data].value = table[: count + count % 2 if packed else 2 * count]
    elif hasattr(table, "append"):
        clean[data].value = list(table)[:count]


def _padding_value(declared: padding.Declared | None, padded: Array) -> Any:
    return padded.min() if declared is None or declared.value not in padded else declared.value


def _cut(header: Any, stored: bytes) -> bytes:
    """Native pixel data of the length that the header asks for, padded to an even one."""
    from pydicom.pixels.utils import get_expected_length

    count = int(header.get("NumberOfFrames") or 1) * int(header.Rows) * int(header.Columns)
    if header.get("SamplesPerPixel") == 1 and 8 * len(stored) == count * int(header.BitsAllocated):
        return stored
    wanted = int(get_expected_length(header, unit="bytes"))
    if len(stored) <= wanted + wanted % 2:
        return stored
    return stored[:wanted] + b"\0" * (wanted % 2)


def _encapsulated(header: Any, stored: bytes) -> bytes:
    """Compressed frames without comments, application segments and bytes behind their pictures; others as they are.

    Tables of offsets are written anew where they hold other numbers than offsets.
    """
    from pydicom.encaps import encapsulate, generate_frames, parse_basic_offsets, parse_fragments
    from pydicom.uid import RLELossless

    count = int(header.get("NumberOfFrames") or 1)
    extended = None
    if "ExtendedOffsetTable" in header:
        extended = (header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths)
    frames = list(generate_frames(stored, number_of_frames=count, extended_offsets=extended))
    if header.file_meta.TransferSyntaxUID == RLELossless:
        cleaned = [codestream.rle(frame, int(header.Rows) * int(header.Columns)) for frame in frames]
    else:
        cleaned = [codestream.frame(frame) for frame in frames]
    stream = io.BytesIO(stored)
    offsets = parse_basic_offsets(stream)
    _, places = parse_fragments(stream)
    begin = places[0] if places else 0
    true_offsets = not offsets or (offsets == sorted(set(offsets)) and {begin + at for at in offsets} <= set(places))
    is_clean = all(frame.rstrip(b"\0") == short.rstrip(b"\0") for frame, short in zip(frames, cleaned, strict=True))
    if is_clean and extended is None and true_offsets and len(offsets) in (0, count):
        return stored
    return bytes(encapsulate(cleaned))
