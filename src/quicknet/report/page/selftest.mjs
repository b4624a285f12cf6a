// The self-test: the test vectors of image/vectors.py, replayed.

const GOLDEN = 0x9e3779b97f4a7c15n;
const MASK = (1n << 64n) - 1n;

function splitmix(seed, count) {
  return Array.from({ length: count }, (_, i) => {
    let z = (BigInt(seed) + BigInt(i + 1) * GOLDEN) & MASK;
    z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
    z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
    return z ^ (z >> 31n);
  });
}

const modulo = (a, b) => ((a % b) + b) % b;

function shape(kind, seed, size, channels) {
  const n = splitmix(seed, 64).map((z) => Number(z >> 40n));
  const out = new Int32Array(size * size * channels);
  const level = (c) => n[c] % 256;
  const high = (c) => n[16 + c] % 256;
  const discs = [0, 1, 2, 3, 4].map((d) => [n[34 + 3 * d] % 1024, n[35 + 3 * d] % 1024, (96 + 48 * d) ** 2]);
  for (let i = 0; i < size * size; i++) {
    const x = Math.floor(((i % size) * 1024) / size);
    const y = Math.floor((Math.floor(i / size) * 1024) / size);
    const ramp = modulo(x * ((n[32] % 7) - 3) + y * ((n[33] % 7) + 1), 1024);
    const bright = modulo(x + y * ((n[35] % 5) - 2), 64 + (n[34] % 256)) * 2 < 64 + (n[34] % 256);
    const disc = discs.reduce((last, [cx, cy, square], d) => ((x - cx) ** 2 + (y - cy) ** 2 < square ? d : last), -1);
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
  if (kind === 0) return Uint8Array.from(splitmix(index, size * size * channels), (z) => Number(z >> 56n));
  const first = shape(kind, index, size, channels);
  if (Math.floor(index / 4) % 2 === 0) return Uint8Array.from(first);
  const other = shape((kind % 3) + 1, index + 1000, size, channels);
  return Uint8Array.from(first, (value, i) => (value * 5 + other[i] * 3) >> 3);
}

/** Replays the card's test vectors: how many of how many gave exactly the recorded logits, or why none were asked. */
export function selfTest(classifier) {
  const { generator, integers } = classifier.card.vectors ?? {};
  if (!integers?.length) return { right: 0, n: 0, why: "the card has no test vectors" };
  if (generator !== 1) return { right: 0, n: 0, why: "the card's test vectors are of a newer kind" };
  const right = integers.filter((expected, i) => {
    const logits = classifier.logits(vector(i, classifier.side, classifier.channels));
    return logits.length === expected.length && expected.every((value, k) => value === logits[k]);
  });
  return { right: right.length, n: integers.length, why: "" };
}
