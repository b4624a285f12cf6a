// node browser.mjs CHROMIUM '{"page": URL, "files": [...], "camera": true, "width": 390, "dark": true, "flags": [...],
// "profile": FOLDER, "screenshot": PNG}': opens a page, chooses the files, and prints what it then shows, as JSON.
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";

const [chromium, wishes] = process.argv.slice(2);
const wish = JSON.parse(wishes);
const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"];
flags.push(`--user-data-dir=${wish.profile}`, "--disable-dev-shm-usage", ...(wish.flags ?? []));
const browser = spawn(chromium, [...flags, "about:blank"], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
const waiting = new Map();
const problems = [];
let text = "";
let count = 0;
let session;

browser.stdio[4].on("data", (part) => {
  text += part;
  const messages = text.split("\0");
  text = messages.pop();
  for (const message of messages.map((each) => JSON.parse(each))) {
    if (message.method === "Runtime.exceptionThrown") problems.push(message.params.exceptionDetails.exception?.description);
    if (message.method === "Log.entryAdded") problems.push(message.params.entry.text);
    waiting.get(message.id)?.(message);
  }
});

function call(method, params = {}) {
  const id = ++count;
  browser.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId: session })}\0`);
  return new Promise((resolve, reject) => {
    waiting.set(id, (message) => (message.error ? reject(new Error(message.error.message)) : resolve(message.result)));
  });
}

async function evaluate(expression) {
  const { result } = await call("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
  return result.value;
}

async function until(expression) {
  while (!(await evaluate(expression))) await new Promise((resolve) => setTimeout(resolve, 20));
}

const status = `document.getElementById("status").textContent`;
const { targetInfos } = await call("Target.getTargets");
const { targetId } = targetInfos.find((target) => target.type === "page");
session = (await call("Target.attachToTarget", { targetId, flatten: true })).sessionId;
for (const domain of ["Page", "Runtime", "Log", "DOM"]) await call(`${domain}.enable`);
const size = { width: wish.width ?? 1000, height: 800, deviceScaleFactor: 1, mobile: Boolean(wish.width) };
await call("Emulation.setDeviceMetricsOverride", size);
const features = [{ name: "prefers-color-scheme", value: wish.dark ? "dark" : "light" }];
await call("Emulation.setEmulatedMedia", { features });
const start = performance.now();
await call("Page.navigate", { url: wish.page });
await until(`!!document.getElementById("status") && !["Loading"].includes(${status})`);
const answers = { ready_ms: performance.now() - start, start: await evaluate(status) };
if (wish.files) {
  const { root } = await call("DOM.getDocument");
  const { nodeId } = await call("DOM.querySelector", { nodeId: root.nodeId, selector: "#files" });
  await call("DOM.setFileInputFiles", { nodeId, files: wish.files });
  await until(`${status}.startsWith("Classified")`);
  answers.rows = await evaluate(`rows.map((row) => ({ ...row, logits: row.logits && [...row.logits] }))`);
  answers.csv = await evaluate("csv(rows)");
}
if (wish.camera) {
  await evaluate(`document.getElementById("camera").click()`);
  await until(`${status}.includes("frames/s") || !document.getElementById("problem").hidden`);
}
for (const id of ["status", "test", "problem", "label"]) answers[id] = await evaluate(`document.getElementById("${id}").textContent`);
answers.wider = await evaluate("document.documentElement.scrollWidth - innerWidth");
answers.scripts = await evaluate("document.scripts.length");
answers.background = await evaluate("getComputedStyle(document.body).backgroundColor");
if (wish.screenshot) {
  const { data } = await call("Page.captureScreenshot", { captureBeyondViewport: true });
  writeFileSync(wish.screenshot, Buffer.from(data, "base64"));
}
answers.problems = problems;
console.log(JSON.stringify(answers));
browser.kill("SIGKILL");
process.exit(0);
