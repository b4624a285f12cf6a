// Classifies images with a .qnz file in a browser or in Node, by quicknet.wasm (`make engine-wasm`).
//
//     import { Classifier } from "./quicknet.mjs";
//     const model = await Classifier.load(fetch("quicknet.wasm"), await (await fetch("m.qnz")).arrayBuffer());
//     const { label, top } = await model.classify(file);   // a Blob, an ImageBitmap, a canvas, ImageData, of any size
//
// The integer logits are those of every other implementation, bit for bit.
import { LIMIT_PIXELS, pixelsOf, tooLarge } from "./decode.mjs";

// qn_info: side, channels, classes, layers (u32), multiply_adds (u64), section (5 bytes)
const INFO_BYTES = 32;
const SECTION_AT = 24;
const READ_SHAPE = 0;
// qn_picture: pixels, width, height, channels; then qn_spec: size, channels, resize, filter, antialias, fill
const SPEC_AT = 16;
const PICTURE_BYTES = 40;
// FORMAT.md: the header, and an entry of the table
const HEADER_BYTES = 32;
const HEADER_SECTIONS = 12;
const ENTRY_BYTES = 64;
const ENTRY_OFFSET = 8;
const ENTRY_LENGTH = 16;
const CARZ_HEADER_BYTES = 4;
const text = new TextDecoder();
// resize.h
const RESIZES = ["shorter", "stretch", "pad"];
const FILTERS = ["nearest", "bilinear", "bicubic", "lanczos"];

/**
 * The module that runs here: with SIMD, or the plain one where WebAssembly has none.
 * @param {(name: string) => BufferSource | Promise<BufferSource>} read gives the bytes of quicknet.wasm or quicknet-plain.wasm
 * @returns {Promise<{wasm: BufferSource, simd: boolean}>}
 */
export async function runnable(read) {
  const wasm = await read("quicknet.wasm");
  return WebAssembly.validate(wasm) ? { wasm, simd: true } : { wasm: await read("quicknet-plain.wasm"), simd: false };
}

/** A .qnz file, checked and ready to run. One image at a time; a worker of one's own makes more. */
export class Classifier {
  /**
   * @param {WebAssembly.Module | BufferSource | Response | Promise<Response>} wasm quicknet.wasm
   * @param {ArrayBuffer | Uint8Array} file the bytes of a .qnz
   * @returns {Promise<Classifier>} rejects with an Error that says what is wrong with the file
   */
  static async load(wasm, file) {
    const bytes = new Uint8Array(file);
    const model = new Classifier(await instantiate(await wasm), bytes);
    model.#describe(await readCard(bytes));
    return model;
  }

  /** Use `load`. */
  constructor(instance, file) {
    this.exports = instance.exports;
    const bytes = this.#copy(file);
    const info = this.#reserve(INFO_BYTES);
    this.#open(bytes, file.length, info);
    this.exports.qn_read_to(bytes, file.length, 0, info, READ_SHAPE);
    [this.side, this.channels, this.classes, this.layers] = new Uint32Array(this.exports.memory.buffer, info, 4);
    this.imageAt = this.#reserve(this.side * this.side * this.channels);
    this.logitsAt = this.#reserve(4 * this.classes);
    this.pictureAt = this.#reserve(PICTURE_BYTES);
    this.roomAt = this.roomBytes = 0;
  }

  /**
   * Classifies one picture of any size.
   * @param {Blob | ImageBitmap | OffscreenCanvas | HTMLCanvasElement | {data, width, height}} image only the last in Node
   * @param {{name?: string, minConfidence?: number, most?: number}} options `name` begins sentences on what is wrong
   * @returns {Promise<{label: string | null, top: {name, probability}[], logits: Int32Array}>} as `answer` does
   */
  async classify(image, { name = image?.name || "The picture", ...options } = {}) {
    const picture = await pixelsOf(image, name, this.card.preprocess?.exif !== false);
    return this.answer(this.logits(this.prepare(picture, name)), options);
  }

  /**
   * Brings a decoded picture of any size to the network's input, as the card's `preprocess` says and Pillow does it.
   * @param {{data: Uint8Array | Uint8ClampedArray, width: number, height: number}} picture 1, 3 or 4 bytes a pixel
   * @returns {Uint8Array} side x side x channels
   */
  prepare({ data, width, height }, name = "The picture") {
    if (!this.exports.qn_prepare) throw new Error("this quicknet.wasm was made with WASM_RESIZE=0: it has `logits` only");
    const channels = data.length / (width * height);
    const shape = `${width} × ${height}, ${data.length} bytes`;
    if (width * height > LIMIT_PIXELS) throw new RangeError(`${name} is over 100 megapixels: ${shape}.`);
    const whole = [width, height, channels].every((n) => Number.isInteger(n) && n > 0);
    if (!whole || data.BYTES_PER_ELEMENT !== 1) throw new RangeError(`${name} is not a picture: ${shape}.`);
    const spec = { resize: "shorter", filter: "bicubic", antialias: true, fill: 0, ...this.card.preprocess };
    const ways = [RESIZES.indexOf(spec.resize), FILTERS.indexOf(spec.filter), Number(spec.antialias), spec.fill];
    const fields = [0, width, height, channels, this.side, this.channels, ...ways];
    const describe = () => new Int32Array(this.exports.memory.buffer, this.pictureAt, fields.length).set(fields);
    const specAt = this.pictureAt + SPEC_AT;
    describe();
    const needed = this.exports.qn_prepare_memory(this.pictureAt, specAt) >>> 0;
    if (needed === 0) throw new RangeError(`${name} is not a picture: ${shape}.`);
    const scratchBytes = Math.ceil(needed / 64) * 64;
    const room = this.#room(scratchBytes + data.length, name);
    fields[0] = room + scratchBytes;
    describe();
    this.#bytes(fields[0], data.length).set(data);
    this.exports.qn_prepare(this.pictureAt, specAt, room, needed, this.imageAt);
    return this.#bytes(this.imageAt, this.side * this.side * this.channels).slice();
  }

  /** @returns {Float64Array} the calibrated probability of each class */
  probabilities(logits) {
    const largest = logits.reduce((a, b) => Math.max(a, b));
    const powers = Float64Array.from(logits, (v) => Math.exp(((v - largest) * this.logitScale) / this.temperature));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((power) => power / sum);
  }

  /** @returns {Int32Array} the integer logits of one preprocessed image, uint8 [side][side][channels] */
  logits(pixels) {
    if (pixels.length !== this.side * this.side * this.channels || pixels.BYTES_PER_ELEMENT !== 1) {
      const shape = `${this.side} × ${this.side} × ${this.channels}`;
      throw new RangeError(`an image of ${pixels.length} values, not ${shape} bytes; \`prepare\` makes it`);
    }
    this.#bytes(this.imageAt, pixels.length).set(pixels);
    this.exports.qn_run(this.engine, this.imageAt, 1, this.logitsAt);
    return new Int32Array(this.exports.memory.buffer, this.logitsAt, this.classes).slice();
  }

  /** @returns {number} the best class's probability; with the card's `none_class` a further class has the logit 0 */
  confidence(logits) {
    const share = this.probabilities(logits).reduce((a, b) => Math.max(a, b));
    const largest = logits.reduce((a, b) => Math.max(a, b));
    const none = this.noneClass ? Math.exp((-largest * this.logitScale) / this.temperature) : 0;
    return share / (1 + none * share);
  }

  /** @returns the best `most` classes; `label` is the first, or null where `confidence` is less than `minConfidence` */
  answer(logits, { minConfidence = this.minConfidence, most = 5 } = {}) {
    const shares = this.probabilities(logits);
    const order = Array.from(shares.keys()).sort((a, b) => shares[b] - shares[a] || a - b);
    const top = order.slice(0, most).map((k) => ({ name: this.names[k], probability: shares[k] }));
    return { label: this.confidence(logits) >= minConfidence ? top[0].name : null, top, logits };
  }

  #describe(card) {
    this.card = card;
    this.names = card.classes ?? Array.from({ length: this.classes }, (_, k) => String(k));
    this.logitScale = card.integer?.logit_scale ?? 1;
    this.temperature = card.temperature ?? 1;
    this.minConfidence = card.unknown?.min_confidence ?? 0;
    this.noneClass = card.unknown?.none_class ?? false;
  }

  #open(bytes, size, info) {
    const needed = this.exports.qn_memory(bytes, size, 1);
    if (needed === 0) throw this.#whatIsWrong(bytes, size, info);
    const pointer = this.#reserve(4);
    const error = this.exports.qn_open(pointer, bytes, size, this.#reserve(needed), needed, 1, 0);
    if (error !== 0) throw this.#whatIsWrong(bytes, size, info);
    this.engine = new Uint32Array(this.exports.memory.buffer, pointer, 1)[0];
  }

  #whatIsWrong(bytes, size, info) {
    const error = this.exports.qn_check(bytes, size, info);
    const section = text.decode(this.#bytes(info + SECTION_AT, 4)).replace(/\0.*/, "");
    return new Error([section, this.#message(error)].filter(Boolean).join(": "));
  }

  #bytes(at, size) {
    return new Uint8Array(this.exports.memory.buffer, at, size); // anew: growing memory replaces its buffer
  }

  #reserve(size) {
    const at = this.exports.reserve(size) >>> 0;
    if (at === 0) throw new RangeError("the memory for this model is not to be had");
    return at;
  }

  /* Memory that the next picture takes over; it is never given back, so a larger one takes twice as much. */
  #room(size, name) {
    if (size > this.roomBytes) {
      const grown = Math.max(size, 2 * this.roomBytes);
      const at = this.exports.reserve(grown) >>> 0;
      if (at === 0) throw new RangeError(tooLarge(name));
      this.roomAt = at;
      this.roomBytes = grown;
    }
    return this.roomAt;
  }

  #copy(bytes) {
    const at = this.#reserve(bytes.length);
    this.#bytes(at, bytes.length).set(bytes);
    return at;
  }

  #message(error) {
    const at = this.exports.qn_strerror(error);
    const bytes = new Uint8Array(this.exports.memory.buffer, at);
    return text.decode(bytes.subarray(0, bytes.indexOf(0)));
  }
}

async function instantiate(wasm) {
  if (wasm instanceof WebAssembly.Module) return WebAssembly.instantiate(wasm, {});
  const fetched = typeof Response !== "undefined" && wasm instanceof Response;
  if (fetched && !wasm.ok) throw new Error(`${wasm.url}: HTTP ${wasm.status}`);
  const bytes = fetched ? await wasm.arrayBuffer() : wasm;
  return (await WebAssembly.instantiate(bytes, {})).instance;
}

/** The card of a checked file: JSON in its section CARD, or compressed in CARZ (FORMAT.md). */
async function readCard(file) {
  const card = sectionOf(file, "CARD") ?? (await inflated(sectionOf(file, "CARZ")));
  return JSON.parse(text.decode(card));
}

function sectionOf(file, kind) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const end = HEADER_BYTES + ENTRY_BYTES * view.getUint32(HEADER_SECTIONS, true);
  for (let entry = HEADER_BYTES; entry < end; entry += ENTRY_BYTES) {
    if (text.decode(file.subarray(entry, entry + 4)) !== kind) continue;
    const offset = Number(view.getBigUint64(entry + ENTRY_OFFSET, true));
    const length = Number(view.getBigUint64(entry + ENTRY_LENGTH, true));
    return file.subarray(offset, offset + length);
  }
  return undefined;
}

/* The text of CARZ, of the size that it states, which the engine has checked; what is longer is not inflated to the
   end: pieces of 4 KB come to 4 MB at most. */
async function inflated(section) {
  const out = new Uint8Array(new DataView(section.buffer, section.byteOffset).getUint32(0, true));
  const [stream, pieces] = [new DecompressionStream("deflate"), []];
  for (let at = CARZ_HEADER_BYTES; at < section.length; at += 4096) pieces.push(section.subarray(at, at + 4096));
  const source = new ReadableStream({ pull: (to) => (pieces.length ? to.enqueue(pieces.shift()) : to.close()) });
  let at = 0;
  try {
    for (const reader = source.pipeThrough(stream).getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      out.set(value, at); // a RangeError where it is longer
      at += value.length;
    }
    if (at !== out.length) throw new RangeError("shorter than it says");
  } catch (error) {
    throw new Error(`CARZ: the compressed card is damaged (${error.message})`);
  }
  return out;
}
