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
    codes: directions(affine(view)),
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

// The direction in which each voxel axis mainly runs: R or L, A or P, S or I.
function directions(columns) {
  return columns.map((column) => {
    const axis = column.reduce((best, value, row) => (Math.abs(value) > Math.abs(column[best]) ? row : best), 0);
    return ["LR", "PA", "IS"][axis][column[axis] > 0 ? 1 : 0];
  });
}

function slice(view, index, facts) {
  const [columns, rows] = facts.shape;
  const [first, second] = facts.codes;
  const mirrored = first === "R" && "AP".includes(second);
  const turned = second === "A" && "RL".includes(first);
  const values = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const x = mirrored ? columns - 1 - column : column;
      const y = turned ? rows - 1 - row : row;
      const at = facts.start + facts.width * (x + columns * (y + rows * index));
      values[row * columns + column] = view[facts.kind](at, true) * facts.slope + facts.intercept;
    }
  }
  const [low, high] = percentiles(values);
  return { width: columns, height: rows, values, low, high };
}
