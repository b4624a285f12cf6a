// Copies the engine and its licence beside package.json: `npm pack` takes nothing from outside. git ignores the copies.
import { copyFileSync } from "node:fs";

const engine = "../src/quicknet/engine/js";
const names = ["decode.mjs", "quicknet.mjs", "quicknet.wasm", "quicknet-plain.wasm"];
for (const path of [...names.map((name) => `${engine}/${name}`), "../LICENSE"]) {
  copyFileSync(new URL(path, import.meta.url), new URL(path.split("/").pop(), import.meta.url));
}
