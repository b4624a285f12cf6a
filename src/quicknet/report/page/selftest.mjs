// The self-test: the test vectors of image/vectors.py, replayed.

const GOLDEN = 0x9e3779b97f4a7c15n;
const wrap = (n) => BigInt.asUintN(64, n); // compiled to machine words, which `& (2n ** 64n - 1n)` is not

/* The next number of a seed's sequence at each call: its upper `bits`. */
function splitmix(seed, bits) {
  const shift = BigInt(64 - bits);
  let state = BigInt(seed);
  return () => {
    state = wrap(state + GOLDEN);
    let z = wrap((state ^ (state >> 30n)) * 0xbf58476d1ce4e5b9n);
    z = wrap((z ^ (z >> 27n)) * 0x94d049bb133111ebn);
    return Number((z ^ (z >> 31n)) >> shift);
  };
}

const modulo = (a, b) => ((a % b) + b) % b;

/* The number of the last disc over a point of 1024 x 1024, -1 where there is none. */
function discAt(discs, x, y) {
  for (let d = discs.length - 1; d >= 0; d--) {
    const [cx, cy, square] = discs[d];
    if ((x - cx) ** 2 + (y - cy) ** 2 < square) return d;
  }
  return -1;
}

function shape(kind, seed, size, channels) {
  const n = Array.from({ length: 64 }, splitmix(seed, 24));
  const out = new Int32Array(size * size * channels);
  const level = (c) => n[c] % 256;
  const high = (c) => n[16 + c] % 256;
  const discs = [0, 1, 2, 3, 4].map((d) => [n[34 + 3 * d] % 1024, n[35 + 3 * d] % 1024, (96 + 48 * d) ** 2]);
  for (let i = 0; i < size * size; i++) {
    const x = Math.floor(((i % size) * 1024) / size);
    const y = Math.floor((Math.floor(i / size) * 1024) / size);
    const ramp = modulo(x * ((n[32] % 7) - 3) + y * ((n[33] % 7) + 1), 1024);
    const bright = modulo(x + y * ((n[35] % 5) - 2), 64 + (n[34] % 256)) * 2 < 64 + (n[34] % 256);
    const disc = kind === 2 ? discAt(discs, x, y) : -1;
    for (let c = 0; c < channels; c++) {
      let value = bright ? high(c) : level(c);
      if (kind === 1) value = level(c) + Math.floor(((high(c) - level(c)) * ramp) / 1023);
      if (kind === 2) value = disc < 0 ? level(c) : (high(c) + 37 * disc) % 256;
      out[i * channels + c] = value;
    }
  }
  return out;
}

/** Test vector `index`, uint8 size x size x channels: image/vectors.py, generator 1. */
export function vector(index, size, channels) {
  const kind = index % 4;
  if (kind === 0) return new Uint8Array(size * size * channels).map(splitmix(index, 8));
  const first = shape(kind, index, size, channels);
  if (Math.floor(index / 4) % 2 === 0) return Uint8Array.from(first);
  const other = shape((kind % 3) + 1, index + 1000, size, channels);
  return new Uint8Array(first.map((value, i) => (value * 5 + other[i] * 3) >> 3));
}

/**
 * Replays the card's test vectors, and after each of them gives how many were right of how many done of how many there
 * are: right where exactly the recorded logits came. Where none are asked, `why` says so.
 */
export function* selfTest(classifier) {
  const { generator, integers } = classifier.card.vectors ?? {};
  const none = !integers?.length && "the card has no test vectors";
  const why = none || (generator === 1 ? "" : "the card's test vectors are of a newer kind");
  if (why) yield { right: 0, done: 0, n: 0, why };
  let right = 0;
  for (const [i, expected] of why ? [] : integers.entries()) {
    const logits = classifier.logits(vector(i, classifier.side, classifier.channels));
    if (logits.length === expected.length && expected.every((value, k) => value === logits[k])) right++;
    yield { right, done: i + 1, n: integers.length, why };
  }
}
