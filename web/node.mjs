import { readFile } from "node:fs/promises";
import { Classifier, runnable } from "./quicknet.mjs";

export { Classifier };

const read = (name) => readFile(new URL(name, import.meta.url));

export async function load(bytes) {
  return Classifier.load((await runnable(read)).wasm, bytes);
}
