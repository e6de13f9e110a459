// Reads uncompressed little-endian DICOM (PS3.5, explicit and implicit VR), only as far as drawing its slices needs.
import { displayRange } from "./display_range.js";

const EXPLICIT = "1.2.840.10008.1.2.1";
const IMPLICIT = "1.2.840.10008.1.2";
const LONG_VRS = new Set(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"]);
const UNDEFINED_LENGTH = 0xffffffff;
const TAGS = {
  syntax: 0x00020010, samples: 0x00280002, photometric: 0x00280004, frames: 0x00280008, rows: 0x00280010,
  columns: 0x00280011, bits: 0x00280100, stored: 0x00280101, high: 0x00280102, signed: 0x00280103,
  padding: 0x00280120, limit: 0x00280121, centre: 0x00281050, width: 0x00281051,
  intercept: 0x00281052, slope: 0x00281053, position: 0x00200032, groups: 0x52009230, orientation: 0x00200037, pixels: 0x7fe00010,
};
const NAMES_BY_TAG = new Map(Object.entries(TAGS).map(([name, tag]) => [tag, name]));

export function readDicom(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const elements = {};
  const metaEnd = 144 + view.getUint32(140, true);
  findElements(view, 132, metaEnd, true, elements);
  const syntax = readText(view, elements.syntax);
  if (syntax !== EXPLICIT && syntax !== IMPLICIT) throw new Error("this page cannot draw compressed pixels");
  findElements(view, metaEnd, view.byteLength, syntax === EXPLICIT, elements);
  return toScan(view, elements);
}

// Stores the positions of the elements in TAGS. Sequences are skipped, whatever length they declare.
function findElements(view, offset, end, explicit, elements) {
  while (offset + 8 <= end) {
    const element = readElementHeader(view, offset, explicit);
    const name = NAMES_BY_TAG.get(element.tag);
    if (name) elements[name] = element;
    if (element.tag === TAGS.pixels) return;
    offset = element.length === UNDEFINED_LENGTH ? skipSequence(view, element.start, explicit) : element.start + element.length;
  }
}

function readElementHeader(view, offset, explicit) {
  const tag = view.getUint16(offset, true) * 65536 + view.getUint16(offset + 2, true);
  const isItem = tag >= 0xfffe0000 && tag < 0xffff0000;
  if (!explicit || isItem) return { tag, vr: "", start: offset + 8, length: view.getUint32(offset + 4, true) };
  const vr = String.fromCharCode(view.getUint8(offset + 4), view.getUint8(offset + 5));
  if (LONG_VRS.has(vr)) return { tag, vr, start: offset + 12, length: view.getUint32(offset + 8, true) };
  return { tag, vr, start: offset + 8, length: view.getUint16(offset + 6, true) };
}

// PS3.5 section 7.5: items until the sequence delimiter (FFFE,E0DD); an item may also have an undefined length.
function skipSequence(view, offset, explicit) {
  while (offset + 8 <= view.byteLength) {
    const item = readElementHeader(view, offset, explicit);
    offset = item.start;
    if (item.tag === 0xfffee0dd) return offset;
    offset = item.length === UNDEFINED_LENGTH ? skipItem(view, offset, explicit) : offset + item.length;
  }
  throw new Error("the file ends inside a sequence");
}

function skipItem(view, offset, explicit) {
  while (offset + 8 <= view.byteLength) {
    const element = readElementHeader(view, offset, explicit);
    if (element.tag === 0xfffee00d) return element.start;
    offset = element.length === UNDEFINED_LENGTH ? skipSequence(view, element.start, explicit) : element.start + element.length;
  }
  throw new Error("the file ends inside a sequence");
}

function readText(view, element) {
  if (!element) return "";
  const bytes = new Uint8Array(view.buffer, view.byteOffset + element.start, element.length);
  return String.fromCharCode(...bytes).replace(/[\0 ]+$/, "").trim();
}

function readInteger(view, element, fallback) {
  return element ? view.getUint16(element.start, true) : fallback;
}

function readDecimals(view, element) {
  return readText(view, element).split("\\").filter(Boolean).map(Number);
}

function toScan(view, elements) {
  const [rows, columns] = [readInteger(view, elements.rows, 0), readInteger(view, elements.columns, 0)];
  const frames = readDecimals(view, elements.frames)[0] || 1;
  const bits = readInteger(view, elements.bits, 16);
  if (!elements.pixels || !rows || !columns) throw new Error("the file contains no picture");
  if (frames > 1 && elements.groups) throw new Error("its frames have places of their own, and this page cannot sort them");
  if (readInteger(view, elements.samples, 1) !== 1 || (bits !== 16 && bits !== 8)) throw new Error("this page draws only grey DICOM of 8 or 16 bits");
  if (elements.pixels.start + rows * columns * frames * (bits / 8) > view.byteLength) throw new Error("the file is shorter than its header declares");
  const facts = { rows, columns, bits, signed: readInteger(view, elements.signed, 0) === 1 };
  facts.stored = readInteger(view, elements.stored, bits);
  facts.lowestBit = Math.max(readInteger(view, elements.high, facts.stored - 1) + 1 - facts.stored, 0);
  facts.padding = paddingRange(view, elements, facts);
  facts.slope = readDecimals(view, elements.slope)[0] ?? 1;
  facts.intercept = readDecimals(view, elements.intercept)[0] ?? 0;
  facts.window = [readDecimals(view, elements.centre)[0], readDecimals(view, elements.width)[0]];
  facts.inverted = readText(view, elements.photometric) === "MONOCHROME1";
  return {
    kind: "dicom",
    slices: frames,
    position: readDecimals(view, elements.position),
    orientation: readDecimals(view, elements.orientation),
    slice: (index) => readSlice(view, elements.pixels.start, index, facts),
  };
}

// The range of stored values outside of the field of view (PS3.3 C.7.5.1.1.2); empty without padding.
function paddingRange(view, elements, facts) {
  if (!elements.padding) return [1, 0];
  const bounds = [elements.padding, elements.limit ?? elements.padding];
  const values = bounds.map((element) => signExtend(readInteger(view, element, 0), 16, facts.signed));
  return [Math.min(...values), Math.max(...values)];
}

// The number in the lowest `bits` of a sample, without the bits above.
function signExtend(sample, bits, signed) {
  return signed ? (sample << (32 - bits)) >> (32 - bits) : (sample << (32 - bits)) >>> (32 - bits);
}

function readSlice(view, pixelStart, index, facts) {
  const count = facts.rows * facts.columns;
  const values = new Float32Array(count);
  const sliceStart = pixelStart + index * count * (facts.bits / 8);
  for (let position = 0; position < count; position++) {
    const offset = sliceStart + position * (facts.bits / 8);
    const sample = facts.bits === 8 ? view.getUint8(offset) : view.getUint16(offset, true);
    const stored = signExtend(sample >>> facts.lowestBit, facts.stored, facts.signed);
    const candidates = [stored, signExtend(sample, facts.bits, facts.signed)];
    const isPadding = candidates.some((value) => value >= facts.padding[0] && value <= facts.padding[1]);
    values[position] = isPadding ? NaN : stored * facts.slope + facts.intercept;
  }
  const [centre, width] = facts.window;
  const [low, high] = width > 1 ? [centre - width / 2, centre + width / 2] : displayRange(values.filter((value) => !Number.isNaN(value)));
  const black = facts.inverted ? high : low;
  values.forEach((value, position) => { if (Number.isNaN(value)) values[position] = black; });
  return { width: facts.columns, height: facts.rows, values, low, high, inverted: facts.inverted };
}

// Sorts single slices along their normal (PS3.3 C.7.6.2.1.1), as the server does.
export function sortAlongNormal(scans) {
  const axes = scans[0].orientation;
  if (axes.length !== 6 || scans.some((scan) => scan.position.length !== 3)) throw new Error("the files do not contain the positions of their slices");
  const normal = [
    axes[1] * axes[5] - axes[2] * axes[4],
    axes[2] * axes[3] - axes[0] * axes[5],
    axes[0] * axes[4] - axes[1] * axes[3],
  ];
  const distance = (scan) => scan.position.reduce((sum, value, axis) => sum + value * normal[axis], 0);
  scans.sort((first, second) => distance(first) - distance(second));
}
