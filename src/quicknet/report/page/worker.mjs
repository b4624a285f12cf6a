// The worker: keeps the model, decodes pictures, answers. Messages in: {modules, model, threshold}, then {id, name, blob}
// or {id, bitmap}, or {id, test} for the self-test's next vector. Messages out: {ready} or {fatal}, then {id, ...answer}
// or {id, error}.
import { Classifier, runnable } from "./quicknet.mjs";
import { selfTest } from "./selftest.mjs";

let classifier;
let test;
let threshold = 0;

async function open(data) {
  const { wasm, simd } = await runnable((name) => data.modules[name]);
  try {
    classifier = await Classifier.load(wasm, data.model);
  } catch (error) {
    throw new Error(`The model in this page is damaged (${error.message}); get the page again.`);
  }
  threshold = data.threshold;
  test = selfTest(classifier);
  return { ready: true, exact: canvasIsExact(), simd };
}

/* Browsers that guard against fingerprinting change what is read from a canvas. */
function canvasIsExact() {
  const image = new ImageData(16, 16);
  image.data.forEach((_, i) => (image.data[i] = i % 4 === 3 ? 255 : (i * 89) % 256));
  const context = new OffscreenCanvas(16, 16).getContext("2d", { willReadFrequently: true });
  context.putImageData(image, 0, 0);
  return context.getImageData(0, 0, 16, 16).data.every((value, i) => value === image.data[i]);
}

async function classify({ name, blob, bitmap }) {
  try {
    return await classifier.classify(bitmap ?? blob, { name, minConfidence: threshold });
  } finally {
    bitmap?.close();
  }
}

let last = Promise.resolve(); // one picture at a time: a large one takes much memory

onmessage = ({ data }) => {
  const work = data.modules ? () => open(data) : data.test ? () => test.next().value : () => classify(data);
  const failed = (error) => (data.modules ? { fatal: error.message } : { error: error.message });
  last = last.then(work).catch(failed).then((result) => postMessage({ id: data.id, ...result }));
};
