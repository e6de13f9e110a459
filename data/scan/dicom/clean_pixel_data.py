"""Cleaning of DICOM pixel data: removal of trailing bytes, spare bits and comments in frames."""

from __future__ import annotations

import io
from typing import Any

from numpy.typing import NDArray

from data import identifiers
from data.scan import padding
from data.scan.dicom import codestream, decode_pixels, stored_bits

Array = NDArray[Any]
COLOURS = ("Red", "Green", "Blue")
PALETTES = tuple(
    f"{prefix}{colour}PaletteColorLookupTable{part}"
    for colour in COLOURS
    for prefix, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
)
FLOAT_BYTES = {"FloatPixelData": 4, "DoubleFloatPixelData": 8}  # bytes of a pixel


def clean_pixel_data(header: Any, keyword: str) -> bytes:
    """The cleaned pixel data of `header` under one of the three keywords, still encoded, with every pixel unchanged."""
    stored = bytes(header.get(keyword))
    if keyword != "PixelData":
        pixels = int(header.get("NumberOfFrames") or 1) * int(header.Rows) * int(header.Columns)
        return bytes(stored[: pixels * FLOAT_BYTES[keyword]])
    syntax = header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None
    if syntax is not None and syntax.is_transfer_syntax and syntax.is_encapsulated:
        return _clean_encapsulated(header, stored)
    return _cut_native(header, stored)


def rewrite_pixel_data(name: str, header: Any) -> None:
    """Replace a data set's pixel data, in place, by uncompressed values: empty spare bits, padding of one value.

    An uncompressed transfer syntax stays; a compressed one becomes explicit little endian.
    """
    from pydicom.uid import ExplicitVRLittleEndian

    syntax = header.file_meta.TransferSyntaxUID
    keyword = next(keyword for keyword in decode_pixels.KEYWORDS if keyword in header)
    layout, declared = stored_bits.bit_layout(name, header), padding.declared_padding(name, header)
    is_little = syntax.is_encapsulated or syntax.is_little_endian
    encoded_frames = []
    for frame in decode_pixels.decode_frames(name, header, decode_pixels.pixel_units(header)):
        values = frame.stored.copy()
        if frame.padding is not None:
            values[frame.padding] = _padding_value(declared, values[frame.padding])
        values = values << layout.below if layout is not None else values
        encoded_frames.append(values.astype(values.dtype.newbyteorder("<" if is_little else ">")).tobytes())
    content = b"".join(encoded_frames)
    representation = {"PixelData": "OB" if header.BitsAllocated <= 8 else "OW", "FloatPixelData": "OF"}
    if int(header.get("SamplesPerPixel") or 1) > 1:
        header.PlanarConfiguration, header.PhotometricInterpretation = 0, "RGB"
    if syntax.is_encapsulated:
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.add_new(keyword, representation.get(keyword, "OD"), content + b"\0" * (len(content) % 2))


def cut_lookup_tables(clean: Any) -> None:
    """Cut the look-up tables of a data set, in place, to the entries that their descriptors declare (PS3.3 C.11.1.1).

    Tables of a palette are removed from a picture that is not in palette colours.
    """
    if "LUTData" in clean:
        _cut_table(clean, "LUTDescriptor", "LUTData")
    palettes = identifiers.present_keywords(clean, PALETTES)
    if not palettes or not clean.get("Rows"):
        return
    if clean.get("PhotometricInterpretation") != "PALETTE COLOR":
        for keyword in palettes:
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
        is_packed = int(entries[2]) <= 8 and len(table) < 2 * count
        clean[data].value = table[: count + count % 2 if is_packed else 2 * count]
    elif hasattr(table, "append"):
        clean[data].value = list(table)[:count]


def _padding_value(declared: padding.DeclaredPadding | None, padded: Array) -> Any:
    return padded.min() if declared is None or declared.value not in padded else declared.value


def _cut_native(header: Any, stored: bytes) -> bytes:
    """Native pixel data cut to the length that the header declares, padded to an even length."""
    from pydicom.pixels.utils import get_expected_length

    count = int(header.get("NumberOfFrames") or 1) * int(header.Rows) * int(header.Columns)
    if header.get("SamplesPerPixel") == 1 and 8 * len(stored) == count * int(header.BitsAllocated):
        return stored
    length = int(get_expected_length(header, unit="bytes"))
    if len(stored) <= length + length % 2:
        return stored
    return stored[:length] + b"\0" * (length % 2)


def _clean_encapsulated(header: Any, stored: bytes) -> bytes:
    """Compressed frames without comments, application segments and bytes after their pictures; clean ones unchanged.

    Tables of offsets are rewritten if they hold other numbers than offsets.
    """
    from pydicom.encaps import encapsulate, generate_frames, parse_basic_offsets, parse_fragments
    from pydicom.uid import RLELossless

    count = int(header.get("NumberOfFrames") or 1)
    extended_offsets = None
    if "ExtendedOffsetTable" in header:
        extended_offsets = (header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths)
    frames = list(generate_frames(stored, number_of_frames=count, extended_offsets=extended_offsets))
    if header.file_meta.TransferSyntaxUID == RLELossless:
        clean_frames = [codestream.clean_rle(frame, int(header.Rows) * int(header.Columns)) for frame in frames]
    else:
        clean_frames = [codestream.clean_frame(frame) for frame in frames]
    stream = io.BytesIO(stored)
    offsets = parse_basic_offsets(stream)
    _, positions = parse_fragments(stream)
    begin = positions[0] if positions else 0
    has_true_offsets = not offsets or (
        offsets == sorted(set(offsets)) and {begin + offset for offset in offsets} <= set(positions)
    )
    is_clean = all(
        frame.rstrip(b"\0") == clean_frame.rstrip(b"\0")
        for frame, clean_frame in zip(frames, clean_frames, strict=True)
    )
    if is_clean and extended_offsets is None and has_true_offsets and len(offsets) in (0, count):
        return stored
    return bytes(encapsulate(clean_frames))
