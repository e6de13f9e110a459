// Draws one slice of the person's own files: PNG and JPEG with the browser, DICOM and NIfTI with our own readers.
import { readDicom, sortAlongNormal } from "./dicom.js";
import { readNifti } from "./nifti.js";

const BROWSER_FORMATS = /^image\/(png|jpeg)$/;

// Resolves to {isDrawn: true, caption} after drawing, or to {isDrawn: false, reason}.
export async function draw(files, index, canvas) {
  try {
    const slice = await locateSlice(files, index);
    if (slice.pictureFile) return await drawPicture(slice.pictureFile, canvas);
    drawGrey(slice.grey, canvas);
    return { isDrawn: true, caption: slice.count > 1 ? `Slice ${index + 1} of ${slice.count}` : "Your scan" };
  } catch (error) {
    return { isDrawn: false, reason: error instanceof Error ? error.message : "this page cannot draw the scan" };
  }
}

// Finds slice `index` in the order of the series, or of the files as they were selected.
async function locateSlice(files, index) {
  const scans = [];
  for (const file of files) scans.push(await readFile(file));
  if (scans.length > 1 && scans.every((scan) => scan.kind === "dicom")) sortAlongNormal(scans);
  const count = scans.reduce((sum, scan) => sum + scan.slices, 0);
  for (const scan of scans) {
    if (index < scan.slices) return scan.file ? { pictureFile: scan.file } : { grey: scan.slice(index), count };
    index -= scan.slices;
  }
  throw new Error("the files do not contain the slice of the heat map");
}

async function readFile(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const textAt = (start, end) => String.fromCharCode(...bytes.subarray(start, end));
  if (textAt(128, 132) === "DICM") return readDicom(bytes);
  if ((bytes[0] === 0x1f && bytes[1] === 0x8b) || textAt(344, 347) === "n+1") return readNifti(bytes);
  const isJpeg = bytes[0] === 0xff && bytes[1] === 0xd8;
  if (BROWSER_FORMATS.test(file.type) || textAt(1, 4) === "PNG" || isJpeg) return { kind: "picture", slices: 1, file };
  throw new Error("the browser cannot draw this kind of file");
}

// Applies the EXIF orientation, as the server does before it computes the heat map.
async function drawPicture(file, canvas) {
  const picture = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => {
    throw new Error("the browser cannot draw this picture");
  });
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").drawImage(picture, 0, 0);
  picture.close();
  return { isDrawn: true, caption: "Your scan" };
}

// grey: {width, height, values (Float32Array), low, high, inverted}
function drawGrey(grey, canvas) {
  canvas.width = grey.width;
  canvas.height = grey.height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(grey.width, grey.height);
  const scale = 255 / Math.max(grey.high - grey.low, 1e-6);
  for (let position = 0; position < grey.values.length; position++) {
    const level = Math.min(255, Math.max(0, (grey.values[position] - grey.low) * scale));
    image.data.fill(grey.inverted ? 255 - level : level, 4 * position, 4 * position + 3);
    image.data[4 * position + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}
