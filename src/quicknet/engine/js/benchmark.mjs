// node benchmark.mjs quicknet.wasm MODEL.qnz [SECONDS]: images a second, one thread, network only.
import { readFileSync } from "node:fs";
import { Classifier } from "./quicknet.mjs";

const [wasmPath, modelPath, seconds = "2"] = process.argv.slice(2);
if (!modelPath) {
  console.error("usage: node benchmark.mjs quicknet.wasm MODEL.qnz [SECONDS]");
  process.exit(2);
}
const wasm = readFileSync(wasmPath);
const file = readFileSync(modelPath);
const start = performance.now();
const classifier = await Classifier.load(wasm, file);
const image = new Uint8Array(classifier.side ** 2 * classifier.channels).map((_, i) => (i * 97) % 256);
classifier.logits(image);
const first_ms = performance.now() - start;

const times_ms = [];
for (const end = performance.now() + 1000 * Number(seconds); performance.now() < end || times_ms.length < 50; ) {
  const before = performance.now();
  classifier.logits(image);
  times_ms.push(performance.now() - before);
}
const kept = times_ms.slice(times_ms.length >> 2).sort((a, b) => a - b); // without the compiler's warming up
const median_ms = kept[kept.length >> 1];
const p95_ms = kept[Math.floor(kept.length * 0.95)];
const rate = `${(1000 / median_ms).toFixed(0)} images/s`;
const spread = `median ${median_ms.toFixed(3)} ms, p95 ${p95_ms.toFixed(3)} ms, n ${kept.length}`;
const start_up = `load and first answer ${first_ms.toFixed(1)} ms`;
console.log(`${modelPath}: ${rate} (${spread}), ${start_up}, module ${wasm.length} bytes, node ${process.version}`);
