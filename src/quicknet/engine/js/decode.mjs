// From a picture as browsers have it to its pixels: limits before anything is decoded, colours and alpha as stored.

export const LIMIT_BYTES = 300e6;
export const LIMIT_PIXELS = 100e6;
const STRIP_PIXELS = 4e6; // of a canvas: phones have small ones
const KINDS = "a Blob, an ImageBitmap, a canvas, or { data, width, height }";

/** Width and height by the header of a PNG, GIF, BMP, WebP or JPEG; null where it does not tell. Nothing is decoded. */
export function headerSize(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const tag = (at, size) => String.fromCharCode(...bytes.subarray(at, at + size));
  const size24 = (at) => 1 + (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16));
  if (bytes.length < 30) return null;
  if (tag(1, 3) === "PNG") return [view.getUint32(16), view.getUint32(20)];
  if (tag(0, 4) === "GIF8") return [view.getUint16(6, true), view.getUint16(8, true)];
  if (tag(0, 2) === "BM") return [Math.abs(view.getInt32(18, true)), Math.abs(view.getInt32(22, true))];
  if (tag(8, 8) === "WEBPVP8X") return [size24(24), size24(27)];
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return null;
  for (let at = 2; at + 9 < bytes.length && bytes[at] === 0xff; at += 2 + view.getUint16(at + 2)) {
    const marker = bytes[at + 1];
    const frame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (frame) return [view.getUint16(at + 7), view.getUint16(at + 5)];
  }
  return null;
}

/** A sentence that says why a picture is refused, or "". */
export function refusal(name, bytes, size) {
  if (bytes === 0) return `${name} is empty (0 bytes); choose a picture.`;
  const size_mb = (bytes / 1e6).toFixed(0);
  if (bytes > LIMIT_BYTES) return `${name} has ${size_mb} MB, over the limit of ${LIMIT_BYTES / 1e6}; scale it down.`;
  if (!size || size[0] * size[1] <= LIMIT_PIXELS) return "";
  const pixels = `${size[0]} × ${size[1]}: ${((size[0] * size[1]) / 1e6).toFixed(0)} megapixels`;
  return `${name} has ${pixels}, over the limit of ${LIMIT_PIXELS / 1e6}; scale it down.`;
}

export function tooLarge(name) {
  return `${name} is too large for this device's memory; scale it down.`;
}

/**
 * @param {Blob | ImageBitmap | OffscreenCanvas | HTMLCanvasElement | {data, width, height}} image the last as it is
 * @param {boolean} upright undo the EXIF orientation of a Blob
 * @returns {Promise<{data: Uint8Array, width: number, height: number}>} rejects with a sentence that begins with `name`
 */
export async function pixelsOf(image, name, upright) {
  if (image?.data) return image;
  const bitmap = image instanceof Blob ? await decode(image, name, upright) : image;
  try {
    if (!(bitmap?.width > 0 && bitmap.height > 0)) throw new TypeError(`${name} is not a picture; give ${KINDS}.`);
    const wrong = refusal(name, 1, [bitmap.width, bitmap.height]);
    if (wrong) throw new Error(wrong);
    return readPixels(bitmap, name);
  } finally {
    if (bitmap !== image) bitmap.close();
  }
}

async function decode(blob, name, upright) {
  const head = new Uint8Array(await blob.slice(0, 1 << 18).arrayBuffer());
  const wrong = refusal(name, blob.size, headerSize(head));
  if (wrong) throw new Error(wrong);
  if (typeof createImageBitmap === "undefined") {
    throw new Error(`${name} cannot be decoded here: this is not a browser; give { data, width, height }.`);
  }
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  if (!upright) options.imageOrientation = "none"; // upright is what browsers do; older ones have no word for it
  try {
    return await createImageBitmap(blob, options);
  } catch {
    throw new Error(`${name} is not a whole picture of a kind that this browser reads; use a JPEG, PNG or WebP.`);
  }
}

function readPixels(bitmap, name) {
  const { width, height } = bitmap;
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP_PIXELS / width)));
  try {
    const context = new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true });
    const data = new Uint8Array(width * height * 4);
    for (let y = 0; y < height; y += rows) {
      const part = Math.min(rows, height - y);
      context.clearRect(0, 0, width, rows);
      context.drawImage(bitmap, 0, -y);
      data.set(context.getImageData(0, 0, width, part).data, y * width * 4);
    }
    return { data, width, height };
  } catch {
    throw new Error(tooLarge(name));
  }
}
