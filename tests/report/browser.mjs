// node browser.mjs CHROMIUM '{"page": URL, "files": [...], "dropped": [...], "camera": true, "camera_s": 0, "keys": [...],
// "in_worker": "...", "at_once": true, "width": 390, "height": 800, "mobile": true, "dark": true, "flags": [...], "profile": FOLDER,
// "screenshot": PNG, "screenshot_to": ID}': opens a page, uses it so, and prints what it then shows, as JSON.
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";

const [chromium, wishes] = process.argv.slice(2);
const wish = JSON.parse(wishes);
const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"];
flags.push(`--user-data-dir=${wish.profile}`, "--disable-dev-shm-usage", ...(wish.flags ?? []));
const browser = spawn(chromium, [...flags, "about:blank"], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
const waiting = new Map();
const problems = [];
const workers = [];
const choosers = [];
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
    if (message.params?.targetInfo?.type === "worker") workers.push(message.params.sessionId);
    if (message.method === "Page.fileChooserOpened") choosers.push(message.params.mode);
    waiting.get(message.id)?.(message);
  }
});

function call(method, params = {}, sessionId = session) {
  const id = ++count;
  browser.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  return new Promise((resolve, reject) => {
    waiting.set(id, (message) => (message.error ? reject(new Error(message.error.message)) : resolve(message.result)));
  });
}

async function evaluate(expression, sessionId = session) {
  const { result } = await call("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true }, sessionId);
  return result.value;
}

async function until(expression) {
  while (!(await evaluate(expression))) await new Promise((resolve) => setTimeout(resolve, 20));
}

async function press(key) {
  const codes = { Tab: 9, Enter: 13, " ": 32 };
  const event = { key, code: key === " " ? "Space" : key, windowsVirtualKeyCode: codes[key] };
  const text = { Enter: "\r", " ": " " }[key];
  await call("Input.dispatchKeyEvent", { ...event, type: text ? "keyDown" : "rawKeyDown", text });
  await call("Input.dispatchKeyEvent", { ...event, type: "keyUp" });
  return evaluate(`document.activeElement.id || document.activeElement.getAttribute("aria-label")`);
}

/* Every time that the page says how far it is: [ms since it was opened, text]. */
const LOG = `globalThis.said = [];
new MutationObserver(() => {
  const text = document.getElementById("status")?.textContent;
  if (text && text !== said.at(-1)?.[1]) said.push([performance.now(), text]);
}).observe(document, { subtree: true, childList: true, characterData: true });`;

const status = `document.getElementById("status").textContent`;
const { targetInfos } = await call("Target.getTargets");
const { targetId } = targetInfos.find((target) => target.type === "page");
session = (await call("Target.attachToTarget", { targetId, flatten: true })).sessionId;
for (const domain of ["Page", "Runtime", "Log", "DOM"]) await call(`${domain}.enable`);
const size = { width: wish.width ?? 1000, height: wish.height ?? 800, deviceScaleFactor: 1, mobile: Boolean(wish.mobile) };
await call("Emulation.setDeviceMetricsOverride", size);
const features = [{ name: "prefers-color-scheme", value: wish.dark ? "dark" : "light" }];
await call("Emulation.setEmulatedMedia", { features });
await call("Target.setAutoAttach", { autoAttach: true, waitForDebuggerOnStart: false, flatten: true });
await call("Page.addScriptToEvaluateOnNewDocument", { source: LOG });
await call("Page.navigate", { url: wish.page });
await until(`!!document.getElementById("status") && !["Loading"].includes(${status})`);
const tested = `!/not run|running/.test(document.getElementById("test").textContent) || ${status} === "Not usable here"`;
if (!wish.at_once) await until(tested);
const answers = { start: await evaluate(status) };
if (wish.keys) {
  await call("Page.setInterceptFileChooserDialog", { enabled: true });
  answers.focused = [];
  for (const key of wish.keys) answers.focused.push(await press(key));
  answers.choosers = choosers;
  const { nodes } = await call("Accessibility.getFullAXTree");
  const controls = nodes.filter(({ ignored, role }) => !ignored && role.value === "button");
  answers.controls = controls.map(({ name }) => name.value);
}
if (wish.files) {
  const { root } = await call("DOM.getDocument");
  const { nodeId } = await call("DOM.querySelector", { nodeId: root.nodeId, selector: "#files" });
  await call("DOM.setFileInputFiles", { nodeId, files: wish.files });
}
if (wish.dropped) {
  const data = { items: [], files: wish.dropped, dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"]) await call("Input.dispatchDragEvent", { type, x: 200, y: 150, data });
}
if (wish.files || wish.dropped) {
  await until(`/^Classified|Not usable/.test(${status})`);
  answers.rows = await evaluate(`rows.map((row) => ({ ...row, logits: row.logits && [...row.logits] }))`);
  answers.csv = await evaluate("csv(rows)");
}
if (wish.camera) {
  await evaluate(`document.getElementById("camera").click()`);
  await until(`${status}.includes("frames/s") || !document.getElementById("problem").hidden`);
  await new Promise((resolve) => setTimeout(resolve, 1000 * (wish.camera_s ?? 0)));
}
if (wish.in_worker) answers.in_worker = await evaluate(wish.in_worker, workers[0]);
await until(tested);
answers.said = await evaluate("said");
answers.visible = await evaluate(`({ answer: !at("answer").hidden, batch: !at("batch").hidden,
  controls: document.querySelectorAll("input:enabled, button:enabled").length > 0 })`);
for (const id of ["status", "test", "problem", "label"]) answers[id] = await evaluate(`document.getElementById("${id}").textContent`);
answers.wider = await evaluate("document.documentElement.scrollWidth - innerWidth");
answers.scripts = await evaluate("document.scripts.length");
answers.background = await evaluate("getComputedStyle(document.body).backgroundColor");
if (wish.screenshot) {
  const id = wish.screenshot_to; // the last element that it shows
  const height = id && 16 + (await evaluate(`document.getElementById("${id}").getBoundingClientRect().bottom + scrollY`));
  const clip = id && { x: 0, y: 0, width: size.width, height, scale: 1 };
  const { data } = await call("Page.captureScreenshot", { captureBeyondViewport: true, clip });
  writeFileSync(wish.screenshot, Buffer.from(data, "base64"));
}
answers.problems = problems;
console.log(JSON.stringify(answers));
browser.kill("SIGKILL");
process.exit(0);
