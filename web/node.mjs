import { readFile } from "node:fs/promises";
import { Classifier } from "./quicknet.mjs";

export { Classifier };

export function load(bytes) {
  return Classifier.load(readFile(new URL("./quicknet.wasm", import.meta.url)), bytes);
}
