import assert from "node:assert/strict";
import { readFileSync, readdirSync, statSync } from "node:fs";
import { test } from "node:test";
import { load } from "quicknet-web";
import { selfTest, vector } from "../../src/quicknet/report/page/selftest.mjs";

const folder = new URL("../../tests/golden/", import.meta.url);
const files = readdirSync(folder).filter((name) => name.endsWith(".qnz"));
const read = (name) => readFileSync(new URL(name, folder));
const drawn = (width, height, channels) => {
  const data = new Uint8Array(width * height * channels).map((_, i) => (i * 89 + (i >> 5)) % 256);
  return { data, width, height };
};

test("every golden file gives the logits that its card records", async () => {
  const results = await Promise.all(files.map(async (name) => [...selfTest(await load(read(name)))].at(-1)));
  assert.ok(results.some(({ n }) => n === 16));
  for (const { right, n } of results) assert.equal(right, n);
});

test("without SIMD the plain module gives the same logits", async () => {
  const { validate, instantiate } = WebAssembly;
  const sizes = [];
  WebAssembly.instantiate = (bytes, imports) => (sizes.push(bytes.byteLength), instantiate(bytes, imports));
  try {
    const fast = await load(read(files[0]));
    WebAssembly.validate = () => false; // as on processors without SSE4.1
    const plain = await load(read(files[0]));
    const picture = drawn(90, 70, 3);
    assert.deepEqual((await plain.classify(picture)).logits, (await fast.classify(picture)).logits);
  } finally {
    Object.assign(WebAssembly, { validate, instantiate });
  }
  const expected = ["quicknet.wasm", "quicknet-plain.wasm"].map((name) => statSync(new URL(`../${name}`, import.meta.url)).size);
  assert.deepEqual(sizes, expected);
});

test("classify is prepare, logits and answer", async () => {
  const model = await load(read(files[0]));
  for (const channels of [1, 3, 4]) {
    const picture = drawn(101, 57, channels);
    const { label, top, logits } = await model.classify(picture);
    const prepared = model.prepare(picture);
    assert.equal(prepared.length, model.side ** 2 * model.channels);
    assert.deepEqual(logits, model.logits(prepared));
    assert.equal(top[0].name, model.names[logits.indexOf(Math.max(...logits))]);
    assert.equal(label, top[0].name);
    const shares = model.probabilities(logits);
    assert.ok(Math.abs(shares.reduce((a, b) => a + b) - 1) < 1e-12);
    assert.equal(top[0].probability, Math.max(...shares));
  }
});

test("an image of the network's size is taken as it is", async () => {
  const model = await load(read(files[0]));
  const data = vector(0, model.side, model.channels);
  assert.deepEqual(model.prepare({ data, width: model.side, height: model.side }), data);
});

test("options: the threshold, how many classes, and the name in sentences", async () => {
  const model = await load(read(files[0]));
  const picture = drawn(40, 40, 3);
  const { label, top } = await model.classify(picture, { minConfidence: 1.01, most: 2 });
  assert.equal(label, null);
  assert.equal(top.length, 2);
  const broken = { data: new Uint8Array(5), width: 2, height: 2 };
  await assert.rejects(model.classify(broken, { name: "x.png" }), /^RangeError: x\.png is not a picture: 2 × 2, 5 bytes\.$/);
});

test("what is not a picture is refused with a sentence", async () => {
  const model = await load(read(files[0]));
  const huge = { data: new Uint8Array(1), width: 20000, height: 10000 };
  await assert.rejects(model.classify(huge), /over 100 megapixels/);
  await assert.rejects(model.classify({ data: new Float32Array(12), width: 2, height: 2 }), /is not a picture/);
  await assert.rejects(model.classify({ data: new Uint8Array(0), width: 0, height: 0 }), /is not a picture/);
  await assert.rejects(model.classify(undefined), /is not a picture; give/);
  await assert.rejects(model.classify(new Blob([])), /is empty \(0 bytes\); choose a picture/);
  await assert.rejects(model.classify(new Blob(["hello"])), /cannot be decoded here: this is not a browser/);
  assert.throws(() => model.logits(new Uint8Array(3)), /an image of 3 values, not/);
  assert.throws(() => model.logits(new Float32Array(model.side ** 2 * model.channels)), /bytes; `prepare` makes it/);
});

test("a damaged file is refused with its reason", async () => {
  const bytes = read(files[0]);
  await assert.rejects(load(bytes.subarray(0, 100)), /truncated/);
  await assert.rejects(load(new TextEncoder().encode("no model")), /not a \.qnz file/);
  bytes[bytes.length >> 1] ^= 1;
  await assert.rejects(load(bytes), /damaged/);
});
