// Reads uncompressed little-endian DICOM (PS3.5, explicit and implicit VR) far enough to draw its slices.
import { percentiles } from "./picture.js";

const EXPLICIT = "1.2.840.10008.1.2.1";
const IMPLICIT = "1.2.840.10008.1.2";
const LONG = new Set(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"]);
const UNDEFINED = 0xffffffff;
const TAGS = {
  syntax: 0x00020010, samples: 0x00280002, photometric: 0x00280004, frames: 0x00280008, rows: 0x00280010,
  columns: 0x00280011, bits: 0x00280100, stored: 0x00280101, high: 0x00280102, signed: 0x00280103,
  padding: 0x00280120, limit: 0x00280121, centre: 0x00281050, width: 0x00281051,
  intercept: 0x00281052, slope: 0x00281053, position: 0x00200032, groups: 0x52009230, orientation: 0x00200037, pixels: 0x7fe00010,
};
const ASKED = new Map(Object.entries(TAGS).map(([name, tag]) => [tag, name]));

export function readDicom(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = {};
  const end = 144 + view.getUint32(140, true);
  walk(view, 132, end, true, found);
  const syntax = text(view, found.syntax);
  if (syntax !== EXPLICIT && syntax !== IMPLICIT) throw new Error("its pixels are compressed, which this page can't draw");
  walk(view, end, view.byteLength, syntax === EXPLICIT, found);
  return scan(view, found);
}

// Notes where the asked elements lie. Sequences are stepped over, whatever length they give.
function walk(view, at, end, explicit, found) {
  while (at + 8 <= end) {
    const element = header(view, at, explicit);
    const name = ASKED.get(element.tag);
    if (name && found) found[name] = element;
    if (element.tag === TAGS.pixels) return;
    at = element.length === UNDEFINED ? skipSequence(view, element.start, explicit) : element.start + element.length;
  }
}

function header(view, at, explicit) {
  const tag = view.getUint16(at, true) * 65536 + view.getUint16(at + 2, true);
  const item = tag >= 0xfffe0000 && tag < 0xffff0000;
  if (!explicit || item) return { tag, vr: "", start: at + 8, length: view.getUint32(at + 4, true) };
  const vr = String.fromCharCode(view.getUint8(at + 4), view.getUint8(at + 5));
  if (LONG.has(vr)) return { tag, vr, start: at + 12, length: view.getUint32(at + 8, true) };
  return { tag, vr, start: at + 8, length: view.getUint16(at + 6, true) };
}

// PS3.5 section 7.5: items until the sequence delimiter (FFFE,E0DD); an item may be of undefined length too.
function skipSequence(view, at, explicit) {
  while (at + 8 <= view.byteLength) {
    const item = header(view, at, explicit);
    at = item.start;
    if (item.tag === 0xfffee0dd) return at;
    at = item.length === UNDEFINED ? skipItem(view, at, explicit) : at + item.length;
  }
  throw new Error("the file ends inside a sequence");
}

function skipItem(view, at, explicit) {
  while (at + 8 <= view.byteLength) {
    const element = header(view, at, explicit);
    if (element.tag === 0xfffee00d) return element.start;
    at = element.length === UNDEFINED ? skipSequence(view, element.start, explicit) : element.start + element.length;
  }
  throw new Error("the file ends inside a sequence");
}

function text(view, element) {
  if (!element) return "";
  const bytes = new Uint8Array(view.buffer, view.byteOffset + element.start, element.length);
  return String.fromCharCode(...bytes).replace(/[\0 ]+$/, "").trim();
}

function number(view, element, otherwise) {
  return element ? view.getUint16(element.start, true) : otherwise;
}

function decimals(view, element) {
  return text(view, element).split("\\").filter(Boolean).map(Number);
}

function scan(view, found) {
  const [rows, columns] = [number(view, found.rows, 0), number(view, found.columns, 0)];
  const frames = decimals(view, found.frames)[0] || 1;
  const bits = number(view, found.bits, 16);
  if (!found.pixels || !rows || !columns) throw new Error("the file holds no picture");
  if (frames > 1 && found.groups) throw new Error("its frames have places of their own, which this page can't put in order");
  if (number(view, found.samples, 1) !== 1 || (bits !== 16 && bits !== 8)) throw new Error("this page draws grey DICOM of 8 or 16 bits only");
  if (found.pixels.start + rows * columns * frames * (bits / 8) > view.byteLength) throw new Error("the file is shorter than it says");
  const facts = { rows, columns, bits, signed: number(view, found.signed, 0) === 1 };
  facts.stored = number(view, found.stored, bits);
  facts.below = Math.max(number(view, found.high, facts.stored - 1) + 1 - facts.stored, 0);
  facts.padding = padding(view, found, facts);
  facts.slope = decimals(view, found.slope)[0] ?? 1;
  facts.intercept = decimals(view, found.intercept)[0] ?? 0;
  facts.window = [decimals(view, found.centre)[0], decimals(view, found.width)[0]];
  facts.inverted = text(view, found.photometric) === "MONOCHROME1";
  return {
    kind: "dicom",
    slices: frames,
    position: decimals(view, found.position),
    orientation: decimals(view, found.orientation),
    slice: (index) => slice(view, found.pixels.start, index, facts),
  };
}

// The range of stored values outside of the field of view (PS3.3 C.7.5.1.1.2), empty where none is declared.
function padding(view, found, facts) {
  if (!found.padding) return [1, 0];
  const ends = [found.padding, found.limit ?? found.padding].map((element) => extend(number(view, element, 0), 16, facts.signed));
  return [Math.min(...ends), Math.max(...ends)];
}

// The number in the lowest `bits` of a sample, bits above them cut off.
function extend(sample, bits, signed) {
  return signed ? (sample << (32 - bits)) >> (32 - bits) : (sample << (32 - bits)) >>> (32 - bits);
}

function slice(view, start, index, facts) {
  const count = facts.rows * facts.columns;
  const values = new Float32Array(count);
  const from = start + index * count * (facts.bits / 8);
  for (let position = 0; position < count; position++) {
    const at = from + position * (facts.bits / 8);
    const sample = facts.bits === 8 ? view.getUint8(at) : view.getUint16(at, true);
    const stored = extend(sample >>> facts.below, facts.stored, facts.signed);
    const outside = [stored, extend(sample, facts.bits, facts.signed)].some((value) => value >= facts.padding[0] && value <= facts.padding[1]);
    values[position] = outside ? NaN : stored * facts.slope + facts.intercept;
  }
  const [centre, width] = facts.window;
  const [low, high] = width > 1 ? [centre - width / 2, centre + width / 2] : percentiles(values.filter((value) => !Number.isNaN(value)));
  const black = facts.inverted ? high : low;
  values.forEach((value, position) => { if (Number.isNaN(value)) values[position] = black; });
  return { width: facts.columns, height: facts.rows, values, low, high, inverted: facts.inverted };
}

// Sorts single slices along their normal (PS3.3 C.7.6.2.1.1), as the server does.
export function inOrder(scans) {
  const axes = scans[0].orientation;
  if (axes.length !== 6 || scans.some((scan) => scan.position.length !== 3)) throw new Error("the files do not say where their slices lie");
  const normal = [
    axes[1] * axes[5] - axes[2] * axes[4],
    axes[2] * axes[3] - axes[0] * axes[5],
    axes[0] * axes[4] - axes[1] * axes[3],
  ];
  const along = (scan) => scan.position.reduce((sum, value, axis) => sum + value * normal[axis], 0);
  scans.sort((one, other) => along(one) - along(other));
}
