// Copies the engine and its licence beside package.json: `npm pack` takes nothing from outside. git ignores the copies.
import { copyFileSync } from "node:fs";

const engine = "../src/quicknet/engine/js";
for (const path of [`${engine}/decode.mjs`, `${engine}/quicknet.mjs`, `${engine}/quicknet.wasm`, "../LICENSE"]) {
  copyFileSync(new URL(path, import.meta.url), new URL(path.split("/").pop(), import.meta.url));
}
