// For browsers and bundlers; node.mjs is the same for Node.
import { Classifier, runnable } from "./quicknet.mjs";

export { Classifier };

// Each address is written out: bundlers take the files that they see so.
const modules = {
  "quicknet.wasm": new URL("./quicknet.wasm", import.meta.url),
  "quicknet-plain.wasm": new URL("./quicknet-plain.wasm", import.meta.url),
};

async function read(name) {
  const answer = await fetch(modules[name]);
  if (!answer.ok) throw new Error(`${answer.url}: HTTP ${answer.status}`);
  return answer.arrayBuffer();
}

export async function load(bytes) {
  return Classifier.load((await runnable(read)).wasm, bytes);
}
