// Reads NIfTI-1 (little-endian, plain or gzipped) far enough to draw a slice the way round that the server reads it.
import { percentiles } from "./picture.js";

const KINDS = {
  2: ["getUint8", 1], 4: ["getInt16", 2], 8: ["getInt32", 4], 16: ["getFloat32", 4], 64: ["getFloat64", 8],
  256: ["getInt8", 1], 512: ["getUint16", 2], 768: ["getUint32", 4],
};
const LARGEST = 1 << 30;

export async function readNifti(bytes) {
  const plain = bytes[0] === 0x1f ? await inflate(bytes) : bytes;
  const view = new DataView(plain.buffer, plain.byteOffset, plain.byteLength);
  if (view.getInt32(0, true) !== 348) throw new Error("this kind of NIfTI file can't be drawn here");
  const [kind, width] = KINDS[view.getInt16(70, true)] ?? [];
  if (!kind) throw new Error("this NIfTI file has a number format that can't be drawn here");
  const shape = [1, 2, 3].map((axis) => (axis <= view.getInt16(40, true) ? view.getInt16(40 + 2 * axis, true) : 1));
  const facts = {
    kind, width, shape, start: Math.trunc(view.getFloat32(108, true)),
    slope: view.getFloat32(112, true) || 1, intercept: view.getFloat32(112, true) ? view.getFloat32(116, true) : 0,
    turn: turn(directions(affine(view))),
  };
  if (facts.start + shape[0] * shape[1] * shape[2] * width > view.byteLength) throw new Error("the file is shorter than it says");
  return { kind: "nifti", slices: shape[2], slice: (index) => slice(view, index, facts) };
}

async function inflate(bytes) {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")).getReader();
  const parts = [];
  let size = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    size += part.value.length;
    if (size > LARGEST) throw new Error("the volume is too large to draw here");
    parts.push(part.value);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// Columns of the voxel-to-patient matrix: the sform if it is set, else the qform, else none turned.
function affine(view) {
  const read = (at) => view.getFloat32(at, true);
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

// Towards which side of the patient columns, rows and slices run, as data/scan/geometry.py finds it: R or L, A or P, S or I.
const ORDERS = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

function directions(columns) {
  const cosines = columns.map((column) => column.map((value) => value / Math.hypot(...column)));
  const fit = (order) => Math.round(1e6 * order.reduce((sum, axis, at) => sum + Math.abs(cosines[at][axis]), 0));
  const best = ORDERS.reduce((order, other) => (fit(other) > fit(order) ? other : order));
  return best.map((axis, at) => ["LR", "PA", "IS"][axis][cosines[at][axis] > 0 ? 1 : 0]);
}

// How slices are turned: rows and columns exchanged, then reversed. The patient's right is at the left, the front (of
// axial slices) or the head at the top; sagittal slices have the front at the left.
const UPRIGHT = { S: "LP", I: "LP", P: "LI", A: "LI", L: "PI", R: "PI" };

function turn([first, second, third]) {
  const [columns, rows] = UPRIGHT[third];
  const exchanged = !["LR", "AP", "IS"].find((pair) => pair.includes(columns)).includes(first);
  const [along, down] = exchanged ? [second, first] : [first, second];
  return { exchanged, rows: down !== rows, columns: along !== columns };
}

function slice(view, index, facts) {
  const [across, deep] = facts.shape;
  const [width, height] = facts.turn.exchanged ? [deep, across] : [across, deep];
  const values = new Float32Array(width * height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const y = facts.turn.rows ? height - 1 - row : row;
      const x = facts.turn.columns ? width - 1 - column : column;
      const [i, j] = facts.turn.exchanged ? [y, x] : [x, y];
      const at = facts.start + facts.width * (i + across * (j + deep * index));
      values[row * width + column] = view[facts.kind](at, true) * facts.slope + facts.intercept;
    }
  }
  const [low, high] = percentiles(values);
  return { width, height, values, low, high };
}
