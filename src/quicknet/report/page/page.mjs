// The page itself. Whatever comes from the model or a file is shown as text, never as HTML.
import { csv } from "./table.mjs";

const MOST_ROWS = 10000;
const MOST_PICTURES = 200; // small pictures in the table
const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const rows = [];
const waiting = new Map();
let worker;
let next = 0;
let camera = null;
let cameraTurn = 0; // counts starts and stops: a stream that comes after another one is not wanted any more
let usable = true;

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function say(id, text) {
  at(id).textContent = text;
  at(id).hidden = !text;
}

function ask(message, transfer = []) {
  const id = next++;
  return new Promise((resolve) => {
    waiting.set(id, resolve);
    worker.postMessage({ ...message, id }, transfer);
  });
}

/* ---- one answer ---- */

function showAnswer({ label, top }) {
  at("answer").hidden = false;
  at("label").textContent = label ?? "unknown";
  at("sure").textContent = label ? `${percent(top[0].probability)} sure` : `Not sure enough; best guess: ${top[0].name}`;
  at("top").replaceChildren(
    ...top.map(({ name, probability }) => {
      const row = element("li");
      const bar = element("span", "", "meter");
      bar.setAttribute("aria-hidden", "true");
      const fill = element("i");
      fill.style.width = percent(probability);
      bar.append(fill);
      row.append(element("span", name, "name"), bar, element("span", percent(probability), "share"));
      return row;
    }),
  );
}

/* ---- pictures ---- */

function addRow(entry, url) {
  rows.push(entry);
  const row = element("tr");
  const picture = element("td");
  if (url && rows.length <= MOST_PICTURES) {
    const small = element("img");
    small.src = url;
    small.alt = "";
    picture.append(small);
  }
  const name = element("th", entry.name);
  name.scope = "row";
  const answered = element("td", entry.error ?? entry.label ?? "unknown", "name");
  row.append(picture, name, answered, element("td", entry.error ? "" : percent(entry.top[0].probability)));
  at("rows").append(row);
  at("batch").hidden = false;
}

async function classifyFiles(files) {
  if (!usable) return;
  say("problem", "");
  stopCamera();
  const given = [...files].slice(0, MOST_ROWS - rows.length);
  const full = `The table is full at ${MOST_ROWS} pictures; save it, then load the page again.`;
  if (given.length < files.length) say("problem", full);
  let done = 0;
  for (const file of given) {
    at("status").textContent = `Classifying ${++done} of ${given.length}`;
    const result = await ask({ name: file.name || "pasted picture", blob: file });
    if (!usable) return;
    const entry = { name: file.name || "pasted picture", ...result };
    const url = result.error || rows.length >= MOST_PICTURES ? "" : URL.createObjectURL(file);
    addRow(entry, url);
    if (result.error) {
      say("problem", result.error);
      continue;
    }
    at("shown").src = url;
    at("shown").alt = entry.name;
    at("shown").hidden = !url;
    showAnswer(result);
  }
  at("status").textContent = `Classified: ${rows.filter((row) => !row.error).length} of ${rows.length} pictures`;
}

function saveTable() {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", csv(rows)], { type: "text/csv" }));
  link.download = "answers.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/* ---- camera ---- */

function stopCamera() {
  cameraTurn++;
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  at("video").hidden = true;
  at("camera").setAttribute("aria-pressed", "false");
  at("live").setAttribute("aria-live", "polite");
}

function refused(error) {
  if (error.name === "NotAllowedError") return "The camera was refused; allow it in the browser's settings of this page.";
  if (error.name === "NotFoundError") return "This device has no camera that the browser can use.";
  return `The camera cannot be used (${error.name}); close other programs that use it, then try again.`;
}

async function startCamera() {
  say("problem", "");
  if (!navigator.mediaDevices?.getUserMedia) {
    say("problem", "This browser gives pages from a file no camera; take a photograph instead, or open the page by https.");
    return;
  }
  const turn = ++cameraTurn;
  let stream;
  try {
    const wish = { facingMode: "environment", width: { ideal: 640 }, height: { ideal: 480 } };
    stream = await navigator.mediaDevices.getUserMedia({ video: wish });
  } catch (error) {
    say("problem", refused(error));
    return;
  }
  if (turn !== cameraTurn || !usable) {
    stream.getTracks().forEach((track) => track.stop()); // clicked again or a picture dropped meanwhile
    return;
  }
  camera = stream;
  at("camera").setAttribute("aria-pressed", "true");
  at("live").setAttribute("aria-live", "off"); // 30 answers a second are not for reading aloud
  at("shown").hidden = true;
  at("video").hidden = false;
  at("video").srcObject = camera;
  await at("video").play();
  let frames = 0;
  let since = performance.now();
  while (camera) {
    const bitmap = await createImageBitmap(at("video"));
    const result = await ask({ name: "the camera's frame", bitmap }, [bitmap]);
    if (!camera) break;
    if (result.error) say("problem", result.error);
    else showAnswer(result);
    frames++;
    const seconds = (performance.now() - since) / 1000;
    if (seconds >= 1) {
      at("status").textContent = `${(frames / seconds).toFixed(0)} frames/s`;
      frames = 0;
      since = performance.now();
    }
    await new Promise(requestAnimationFrame);
  }
}

/* ---- start ---- */

function bytesOf(id) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(at(id).textContent);
  const text = atob(at(id).textContent); // before Chrome 140, Firefox 133, Safari 18.2
  const bytes = new Uint8Array(text.length); // by a loop: `from` with a function took 14 times as long
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function gunzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/* The worker's code, and the two modules, of which the worker takes what runs here. */
async function engine() {
  const bytes = await gunzip(bytesOf("engine"));
  const [plainAt, simdAt] = at("engine").dataset.places.split(",").map(Number);
  const modules = { "quicknet.wasm": bytes.slice(simdAt), "quicknet-plain.wasm": bytes.slice(plainAt, simdAt) };
  return { code: bytes.slice(0, plainAt), modules };
}

function missing() {
  const needed = ["WebAssembly", "Worker", "OffscreenCanvas", "createImageBitmap", "DecompressionStream"];
  return needed.filter((name) => typeof globalThis[name] === "undefined");
}

function listen() {
  for (const id of ["files", "photo"]) {
    at(id).addEventListener("change", () => {
      const files = [...at(id).files];
      at(id).value = ""; // so that the same file can be chosen again
      classifyFiles(files);
    });
  }
  at("camera").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
  at("save").addEventListener("click", saveTable);
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) classifyFiles(files);
    else say("problem", "There is no picture in the clipboard; copy one, then paste again.");
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
  document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    if (event.dataTransfer.files.length) classifyFiles(event.dataTransfer.files);
    else say("problem", "What was dropped is not a file; save the picture first, then drop the file.");
  });
}

function showReady({ exact }) {
  if (!exact) say("problem", "This browser changes the pixels that pages read, against fingerprinting; answers may differ.");
  for (const control of document.querySelectorAll("[disabled]")) control.disabled = false;
  at("status").textContent = "Ready";
  listen();
}

/* One vector at a time, so that pictures do not wait. */
async function selfTest({ simd }) {
  const slow = simd ? "" : " This device's WebAssembly has no SIMD, so answers take longer.";
  let right, done, n, why, error;
  do {
    ({ right, done, n, why, error } = await ask({ test: true }));
    if (error || right < done) {
      const vectors = error ?? `${done - right} of ${done} test vectors gave other answers`;
      throw new Error(`The self-test failed: ${vectors}; get the page again, or use another browser.`);
    }
    at("test").textContent = `Self-test: ${done} of ${n} test vectors, running`;
  } while (done < n);
  const vectors = n ? `${right} of ${n} test vectors give the recorded answer, bit for bit` : `not done: ${why}`;
  at("test").textContent = `Self-test: ${vectors}.${slow}`;
}

async function start() {
  const lacks = missing();
  if (lacks.length) throw new Error(`This browser lacks ${lacks.join(", ")}; use Chrome 91, Firefox 113, Safari 16.4 or newer.`);
  const { code, modules } = await engine();
  worker = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  worker.onmessage = ({ data: { id, ...result } }) => {
    waiting.get(id)?.(result);
    waiting.delete(id);
  };
  const broken = new Promise((_, reject) => {
    worker.onerror = () => reject(new Error("The worker of this page does not start; use another browser."));
  });
  const model = bytesOf("model");
  const first = { modules, model, threshold: Number(at("model").dataset.threshold) };
  const result = await Promise.race([ask(first, [model.buffer]), broken]);
  if (result.fatal) throw new Error(result.fatal);
  showReady(result);
  await selfTest(result);
}

/* Nothing is classified any more, and no answer stays. */
function refuse(error) {
  usable = false;
  stopCamera();
  for (const control of document.querySelectorAll("input, button")) control.disabled = true;
  at("answer").hidden = at("batch").hidden = true;
  at("test").textContent = "";
  say("problem", error.message);
  at("status").textContent = "Not usable here";
}

start().catch(refuse);
