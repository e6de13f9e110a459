// Draws one slice of the person's own files: pictures by the browser, DICOM and NIfTI by small readers of ours.
import { readDicom, inOrder } from "./dicom.js";
import { readNifti } from "./nifti.js";

const PICTURE = /^image\/(png|jpeg)$/;

// Resolves to {shown: true, what} after drawing, or {shown: false, why}.
export async function draw(files, index, canvas) {
  try {
    const slices = await locate(files, index);
    if (slices.picture) return await drawPicture(slices.picture, canvas);
    drawGrey(slices.grey, canvas);
    return { shown: true, what: slices.count > 1 ? `Slice ${index + 1} of ${slices.count}` : "Your scan" };
  } catch (error) {
    return { shown: false, why: error instanceof Error ? error.message : "the scan can't be drawn here" };
  }
}

// Finds slice `index` among the files: the order is that of the series, or of the files as they were chosen.
async function locate(files, index) {
  const scans = [];
  for (const file of files) scans.push(await open(file));
  if (scans.length > 1 && scans.every((scan) => scan.kind === "dicom")) inOrder(scans);
  const count = scans.reduce((sum, scan) => sum + scan.slices, 0);
  for (const scan of scans) {
    if (index < scan.slices) return scan.file ? { picture: scan.file } : { grey: scan.slice(index), count };
    index -= scan.slices;
  }
  throw new Error("the slice that the map belongs to was not found");
}

async function open(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const text = (from, to) => String.fromCharCode(...bytes.subarray(from, to));
  if (text(128, 132) === "DICM") return readDicom(bytes);
  if ((bytes[0] === 0x1f && bytes[1] === 0x8b) || text(344, 347) === "n+1") return readNifti(bytes);
  if (PICTURE.test(file.type) || text(1, 4) === "PNG" || (bytes[0] === 0xff && bytes[1] === 0xd8)) return { kind: "picture", slices: 1, file };
  throw new Error("this kind of file can't be drawn in the browser");
}

// Turned as EXIF asks, as the server reads it and lays its map.
async function drawPicture(file, canvas) {
  const picture = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => {
    throw new Error("the browser can't draw this picture");
  });
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").drawImage(picture, 0, 0);
  picture.close();
  return { shown: true, what: "Your scan" };
}

// grey: {width, height, values (Float32Array), low, high, aspect}
function drawGrey(grey, canvas) {
  canvas.width = grey.width;
  canvas.height = grey.height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(grey.width, grey.height);
  const scale = 255 / Math.max(grey.high - grey.low, 1e-6);
  for (let position = 0; position < grey.values.length; position++) {
    const raw = Math.min(255, Math.max(0, (grey.values[position] - grey.low) * scale));
    image.data.fill(grey.inverted ? 255 - raw : raw, 4 * position, 4 * position + 3);
    image.data[4 * position + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

// The 1st and 99.5th percentile: how a slice is shown whose file names no window.
export function percentiles(values) {
  const sorted = Float32Array.from(values).sort();
  return [sorted[Math.floor(0.01 * (sorted.length - 1))], sorted[Math.floor(0.995 * (sorted.length - 1))]];
}
