/** 1 (grey), 3 (RGB) or 4 (RGBA) bytes a pixel, row by row. An `ImageData` is one. */
export interface Pixels {
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
}

/** In Node: `Pixels` only. */
export type Picture = Pixels | Blob | ImageBitmap | OffscreenCanvas | HTMLCanvasElement;

export interface Options {
  /** Begins the sentences on what is wrong with a picture. Default: the file's name, or "The picture". */
  name?: string;
  /** Below this probability `label` is null. Default: the threshold in the model's card, or 0. */
  minConfidence?: number;
  /** How many classes `top` has. Default: 5. */
  most?: number;
}

export interface Answer {
  /** The most probable class, or null where `confidence` is less than `minConfidence`. */
  label: string | null;
  /** The most probable classes, best first, with calibrated probabilities. */
  top: { name: string; probability: number }[];
  /** The integer logits: those of `quicknet predict` from the same pixels, bit for bit. */
  logits: Int32Array;
}

/** A checked `.qnz`. It runs one picture at a time; for several at once load it in several workers. */
export class Classifier {
  private constructor();

  /** As the function `load`, with a `quicknet.wasm` of the caller's. */
  static load(
    wasm: WebAssembly.Module | BufferSource | Response | Promise<WebAssembly.Module | BufferSource | Response>,
    bytes: ArrayBuffer | Uint8Array,
  ): Promise<Classifier>;

  /** The network takes `side` x `side` x `channels` bytes. */
  readonly side: number;
  readonly channels: number;
  readonly names: string[];
  /** What the file says about itself: classes, preprocessing, training, accuracy. */
  readonly card: Record<string, unknown>;
  readonly logitScale: number;
  readonly temperature: number;
  readonly minConfidence: number;
  /** Whether "none of the classes" counts as one more class, with the logit 0. */
  readonly noneClass: boolean;

  /** Decodes, resizes and classifies a picture of any size, at most 100 megapixels. */
  classify(image: Picture, options?: Options): Promise<Answer>;
  /** Resizes and crops a decoded picture to the network's input, bit for bit as training did. */
  prepare(pixels: Pixels, name?: string): Uint8Array;
  /** The integer logits of prepared pixels. */
  logits(prepared: Uint8Array | Uint8ClampedArray): Int32Array;
  probabilities(logits: Int32Array): Float64Array;
  /** What `minConfidence` is compared with: the best class's probability, less where `noneClass` is true. */
  confidence(logits: Int32Array): number;
  answer(logits: Int32Array, options?: Omit<Options, "name">): Answer;
}

/** Opens the bytes of a `.qnz`. Rejects with an Error that says what is wrong with them. */
export function load(bytes: ArrayBuffer | Uint8Array): Promise<Classifier>;
