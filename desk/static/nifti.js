// Reads NIfTI-1 (little-endian, plain or gzipped), only as far as drawing a slice in the server's orientation needs.
import { displayRange } from "./display_range.js";

const NUMBER_FORMATS = {
  2: ["getUint8", 1], 4: ["getInt16", 2], 8: ["getInt32", 4], 16: ["getFloat32", 4], 64: ["getFloat64", 8],
  256: ["getInt8", 1], 512: ["getUint16", 2], 768: ["getUint32", 4],
};
const MAX_BYTES = 1 << 30;

export async function readNifti(bytes) {
  const content = bytes[0] === 0x1f ? await inflate(bytes) : bytes;
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  if (view.getInt32(0, true) !== 348) throw new Error("this page cannot draw this kind of NIfTI file");
  const [getter, size] = NUMBER_FORMATS[view.getInt16(70, true)] ?? [];
  if (!getter) throw new Error("this page cannot draw the number format of this NIfTI file");
  const shape = [1, 2, 3].map((axis) => (axis <= view.getInt16(40, true) ? view.getInt16(40 + 2 * axis, true) : 1));
  const facts = {
    getter, size, shape, start: Math.trunc(view.getFloat32(108, true)),
    slope: view.getFloat32(112, true) || 1, intercept: view.getFloat32(112, true) ? view.getFloat32(116, true) : 0,
    rotation: uprightRotation(axisDirections(affineColumns(view))),
  };
  if (facts.start + shape[0] * shape[1] * shape[2] * size > view.byteLength) throw new Error("the file is shorter than its header declares");
  return { kind: "nifti", slices: shape[2], slice: (index) => readSlice(view, index, facts) };
}

async function inflate(bytes) {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")).getReader();
  const parts = [];
  let size = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    size += part.value.length;
    if (size > MAX_BYTES) throw new Error("the volume is too large for this page to draw");
    parts.push(part.value);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// Columns of the voxel-to-patient matrix: the sform if it is set, else the qform, else the default orientation.
function affineColumns(view) {
  const read = (offset) => view.getFloat32(offset, true);
  if (view.getInt16(254, true) > 0) return [0, 1, 2].map((axis) => [0, 1, 2].map((row) => read(280 + 16 * row + 4 * axis)));
  if (view.getInt16(252, true) <= 0) return [[-1, 0, 0], [0, 1, 0], [0, 0, 1]];
  const [b, c, d] = [read(256), read(260), read(264)];
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  return [
    [a * a + b * b - c * c - d * d, 2 * (b * c + a * d), 2 * (b * d - a * c)],
    [2 * (b * c - a * d), a * a + c * c - b * b - d * d, 2 * (c * d + a * b)],
    [2 * (b * d + a * c), 2 * (c * d - a * b), a * a + d * d - b * b - c * c],
  ];
}

// The side of the patient (R or L, A or P, S or I) towards which columns, rows and slices run, as in data/scan/geometry.py.
const AXIS_ORDERS = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

function axisDirections(columns) {
  const cosines = columns.map((column) => column.map((value) => value / Math.hypot(...column)));
  const alignment = (order) => Math.round(1e6 * order.reduce((sum, axis, position) => sum + Math.abs(cosines[position][axis]), 0));
  const best = AXIS_ORDERS.reduce((order, candidate) => (alignment(candidate) > alignment(order) ? candidate : order));
  return best.map((axis, position) => ["LR", "PA", "IS"][axis][cosines[position][axis] > 0 ? 1 : 0]);
}

// How slices are rotated: rows and columns are swapped, then reversed. The patient's right is at the left. The front (of
// axial slices) or the head is at the top. Sagittal slices have the front at the left.
const UPRIGHT = { S: "LP", I: "LP", P: "LI", A: "LI", L: "PI", R: "PI" };

function uprightRotation([first, second, third]) {
  const [columns, rows] = UPRIGHT[third];
  const isSwapped = !["LR", "AP", "IS"].find((pair) => pair.includes(columns)).includes(first);
  const [columnDirection, rowDirection] = isSwapped ? [second, first] : [first, second];
  return { isSwapped, reversesRows: rowDirection !== rows, reversesColumns: columnDirection !== columns };
}

function readSlice(view, index, facts) {
  const [firstLength, secondLength] = facts.shape;
  const rotation = facts.rotation;
  const [width, height] = rotation.isSwapped ? [secondLength, firstLength] : [firstLength, secondLength];
  const values = new Float32Array(width * height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const y = rotation.reversesRows ? height - 1 - row : row;
      const x = rotation.reversesColumns ? width - 1 - column : column;
      const [i, j] = rotation.isSwapped ? [y, x] : [x, y];
      const offset = facts.start + facts.size * (i + firstLength * (j + secondLength * index));
      values[row * width + column] = view[facts.getter](offset, true) * facts.slope + facts.intercept;
    }
  }
  const [low, high] = displayRange(values);
  return { width, height, values, low, high };
}
