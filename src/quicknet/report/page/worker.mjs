// The worker: keeps the model, decodes pictures, answers. Messages in: {wasm, model, threshold}, then {id, name, blob}
// or {id, bitmap}. Messages out: {ready} or {fatal}, then {id, ...answer} or {id, error}.
import { Classifier } from "./quicknet.mjs";
import { answer, headerSize, refusal, selfTest } from "./pictures.mjs";

const STRIP_PIXELS = 4e6; // of a canvas: phones have small ones
let classifier;
let threshold = 0;

async function gunzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function open(data) {
  const wasm = await gunzip(data.wasm);
  if (!WebAssembly.validate(wasm)) {
    throw new Error("This browser's WebAssembly has no SIMD; use Chrome 91, Firefox 113, Safari 16.4 or newer.");
  }
  try {
    classifier = await Classifier.load(wasm, data.model);
  } catch (error) {
    throw new Error(`The model in this page is damaged (${error.message}); get the page again.`);
  }
  threshold = data.threshold;
  const test = selfTest(classifier);
  if (test.right < test.n) {
    const vectors = `${test.right} of ${test.n} test vectors`;
    throw new Error(`The self-test failed: ${vectors}; get the page again, or use another browser.`);
  }
  return { ready: true, test, exact: canvasIsExact() };
}

/* Browsers that guard against fingerprinting change what is read from a canvas. */
function canvasIsExact() {
  const image = new ImageData(16, 16);
  image.data.forEach((_, i) => (image.data[i] = i % 4 === 3 ? 255 : (i * 89) % 256));
  const context = new OffscreenCanvas(16, 16).getContext("2d", { willReadFrequently: true });
  context.putImageData(image, 0, 0);
  return context.getImageData(0, 0, 16, 16).data.every((value, i) => value === image.data[i]);
}

function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP_PIXELS / width)));
  const context = new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true });
  const data = new Uint8Array(width * height * 4);
  for (let y = 0; y < height; y += rows) {
    const part = Math.min(rows, height - y);
    context.clearRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -y);
    data.set(context.getImageData(0, 0, width, part).data, y * width * 4);
  }
  return { data, width, height };
}

async function decode(blob, name) {
  let wrong = refusal(name, blob.size, null);
  if (wrong) throw new Error(wrong);
  const head = new Uint8Array(await blob.slice(0, 1 << 18).arrayBuffer());
  wrong = refusal(name, blob.size, headerSize(head));
  if (wrong) throw new Error(wrong);
  const upright = classifier.card.preprocess?.exif === false ? "none" : "from-image";
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: upright };
  try {
    return await createImageBitmap(blob, options);
  } catch {
    throw new Error(`${name} is not a whole picture of a kind that this browser reads; use a JPEG, PNG or WebP.`);
  }
}

async function classify({ name, blob, bitmap }) {
  const picture = bitmap ?? (await decode(blob, name));
  try {
    const wrong = refusal(name, 1, [picture.width, picture.height]);
    if (wrong) throw new Error(wrong);
    let pixels;
    try {
      pixels = classifier.prepare(pixelsOf(picture));
    } catch {
      throw new Error(`${name} is too large for this device's memory; scale it down.`);
    }
    return answer(classifier, pixels, threshold);
  } finally {
    picture.close();
  }
}

let last = Promise.resolve(); // one picture at a time: a large one takes much memory

onmessage = ({ data }) => {
  const work = data.wasm ? () => open(data) : () => classify(data);
  const failed = (error) => (data.wasm ? { fatal: error.message } : { error: error.message });
  last = last.then(work).catch(failed).then((result) => postMessage({ id: data.id, ...result }));
};
