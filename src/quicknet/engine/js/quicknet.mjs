// Classifies images with a .qnz file in a browser or in Node, by quicknet.wasm (`make engine-wasm`).
//
//     import { Classifier } from "./quicknet.mjs";
//     const classifier = await Classifier.load(fetch("quicknet.wasm"), await (await fetch("m.qnz")).arrayBuffer());
//     const { index, name, probability } = classifier.classify(pixels);   // uint8, side x side x channels
//
// The integer logits are those of every other implementation, bit for bit.

// qn_info: side, channels, classes, layers (u32), multiply_adds (u64), section (5 bytes)
const INFO_BYTES = 32;
const SECTION_AT = 24;
const READ_SHAPE = 0;
// FORMAT.md: the header, and an entry of the table
const HEADER_BYTES = 32;
const HEADER_SECTIONS = 12;
const ENTRY_BYTES = 64;
const ENTRY_OFFSET = 8;
const ENTRY_LENGTH = 16;
const text = new TextDecoder();

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
    const largest = logits.reduce((a, b) => Math.max(a, b));
    const index = logits.indexOf(largest);
    const sum = logits.reduce((total, logit) => total + Math.exp((logit - largest) * this.logitScale), 0);
    return { index, name: this.names[index], probability: 1 / sum };
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
