// For browsers and bundlers; node.mjs is the same for Node.
import { Classifier } from "./quicknet.mjs";

export { Classifier };

export function load(bytes) {
  return Classifier.load(fetch(new URL("./quicknet.wasm", import.meta.url)), bytes);
}
