// Classifies images with a .qnz file in a browser or in Node, by quicknet.wasm (`make engine-wasm`).
//
//     import { Classifier } from "./quicknet.mjs";
//     const classifier = await Classifier.load(fetch("quicknet.wasm"), await (await fetch("m.qnz")).arrayBuffer());
//     const pixels = classifier.prepare(canvas.getImageData(0, 0, width, height));   // of any size
//     const { index, name, probability } = classifier.classify(pixels);   // uint8, side x side x channels
//
// The integer logits are those of every other implementation, bit for bit.

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
const text = new TextDecoder();
// resize.h
const RESIZES = ["shorter", "stretch", "pad"];
const FILTERS = ["nearest", "bilinear", "bicubic", "lanczos"];
const MOST_PIXELS = 100_000_000;

/** A .qnz file, checked and ready to run. One image at a time; a worker of one's own makes more. */
export class Classifier {
  /**
   * @param {WebAssembly.Module | BufferSource | Response | Promise<Response>} wasm quicknet.wasm
   * @param {ArrayBuffer | Uint8Array} file the bytes of a .qnz
   * @returns {Promise<Classifier>} rejects with an Error that says what is wrong with the file
   */
  static async load(wasm, file) {
    return new Classifier(await instantiate(await wasm), new Uint8Array(file));
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
    this.card = readCard(file);
    this.names = this.card.classes ?? Array.from({ length: this.classes }, (_, k) => String(k));
    this.logitScale = this.card.integer?.logit_scale ?? 1;
    this.temperature = this.card.temperature ?? 1;
    this.pictureAt = this.#reserve(PICTURE_BYTES);
    this.roomAt = this.roomBytes = 0;
  }

  /**
   * Brings a decoded picture of any size to the network's input, as the card's `preprocess` says and Pillow does it.
   * @param {{data: Uint8Array | Uint8ClampedArray, width: number, height: number}} picture 1, 3 or 4 bytes a pixel
   * @returns {Uint8Array} side x side x channels
   */
  prepare({ data, width, height }) {
    const channels = data.length / (width * height);
    if (width * height > MOST_PIXELS) throw new RangeError("the picture is over 100 megapixels");
    const spec = { resize: "shorter", filter: "bicubic", antialias: true, fill: 0, ...this.card.preprocess };
    const ways = [RESIZES.indexOf(spec.resize), FILTERS.indexOf(spec.filter), Number(spec.antialias), spec.fill];
    const fields = [0, width, height, channels, this.side, this.channels, ...ways];
    const describe = () => new Int32Array(this.exports.memory.buffer, this.pictureAt, fields.length).set(fields);
    const specAt = this.pictureAt + SPEC_AT;
    describe();
    const needed = this.exports.qn_prepare_memory(this.pictureAt, specAt) >>> 0;
    if (needed === 0) throw new RangeError(`not a picture: ${width} x ${height}, ${data.length} bytes`);
    const scratchBytes = Math.ceil(needed / 64) * 64;
    const room = this.#room(scratchBytes + data.length);
    fields[0] = room + scratchBytes;
    describe();
    this.#bytes(fields[0], data.length).set(data);
    this.exports.qn_prepare(this.pictureAt, specAt, room, needed, this.imageAt);
    return this.#bytes(this.imageAt, this.side * this.side * this.channels).slice();
  }

  /** @returns {Float64Array} the calibrated probability of each class */
  probabilities(integerLogits) {
    const largest = integerLogits.reduce((a, b) => Math.max(a, b));
    const powers = Float64Array.from(integerLogits, (v) => Math.exp(((v - largest) * this.logitScale) / this.temperature));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((power) => power / sum);
  }

  /** @returns {Int32Array} the integer logits of one preprocessed image, uint8 [side][side][channels] */
  integerLogits(pixels) {
    if (pixels.length !== this.side * this.side * this.channels) {
      throw new RangeError(`an image of ${pixels.length} bytes, not ${this.side} x ${this.side} x ${this.channels}`);
    }
    this.#bytes(this.imageAt, pixels.length).set(pixels);
    this.exports.qn_run(this.engine, this.imageAt, 1, this.logitsAt);
    return new Int32Array(this.exports.memory.buffer, this.logitsAt, this.classes).slice();
  }

  /** @returns {{index: number, name: string, probability: number}} the first of the largest logits */
  classify(pixels) {
    const logits = this.integerLogits(pixels);
    const index = logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
    return { index, name: this.names[index], probability: this.probabilities(logits)[index] };
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
  #room(size) {
    if (size > this.roomBytes) {
      const grown = Math.max(size, 2 * this.roomBytes);
      this.roomAt = this.#reserve(grown);
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
  const bytes = typeof Response !== "undefined" && wasm instanceof Response ? await wasm.arrayBuffer() : wasm;
  return (await WebAssembly.instantiate(bytes, {})).instance;
}

/** The card of a checked file: JSON in its section CARD (FORMAT.md). */
function readCard(file) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const end = HEADER_BYTES + ENTRY_BYTES * view.getUint32(HEADER_SECTIONS, true);
  for (let entry = HEADER_BYTES; entry < end; entry += ENTRY_BYTES) {
    if (text.decode(file.subarray(entry, entry + 4)) !== "CARD") continue;
    const offset = Number(view.getBigUint64(entry + ENTRY_OFFSET, true));
    const length = Number(view.getBigUint64(entry + ENTRY_LENGTH, true));
    return JSON.parse(text.decode(file.subarray(offset, offset + length)));
  }
  return {};
}
