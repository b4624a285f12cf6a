"""Opens a page in headless Chromium by Playwright: for tests, the picture in the docs and the benchmark."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--disable-gpu", "--no-first-run")
# Every time that the page says how far it is: [ms since it was opened, text].
LOG = """globalThis.said = [];
new MutationObserver(() => {
  const text = document.getElementById("status")?.textContent;
  if (text && text !== said.at(-1)?.[1]) said.push([performance.now(), text]);
}).observe(document, { subtree: true, childList: true, characterData: true });"""
STATUS = 'document.getElementById("status")?.textContent'
TESTED = f'!/not run|running/.test(document.getElementById("test").textContent) || {STATUS} === "Not usable here"'
SHOWN = """({
  status: at("status").textContent, test: at("test").textContent, problem: at("problem").textContent,
  label: at("label").textContent, said, scripts: document.scripts.length,
  visible: { answer: !at("answer").hidden, batch: !at("batch").hidden,
             controls: document.querySelectorAll("input:enabled, button:enabled").length > 0 },
  wider: document.documentElement.scrollWidth - innerWidth,
  background: getComputedStyle(document.body).backgroundColor })"""
FOCUSED = 'document.activeElement.id || document.activeElement.getAttribute("aria-label")'


def chromium() -> str | None:
    """Return the path of Chromium, None where it or Playwright is missing."""
    if importlib.util.find_spec("playwright") is None:
        return None
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def browse(
    folder: Path,
    text: str,
    *,
    files: Sequence[str] = (),
    dropped: Sequence[str] = (),
    keys: Sequence[str] = (),
    camera: bool = False,
    camera_s: float = 0,
    in_worker: str = "",
    at_once: bool = False,
    width: int = 1000,
    height: int = 800,
    mobile: bool = False,
    dark: bool = False,
    flags: Sequence[str] = (),
    screenshot: Path | None = None,
) -> dict[str, Any]:
    """Open the text of a page in `folder`, use it so, and return what it then shows.

    `files` are chosen, `dropped` are dropped; `at_once` does so before the self-test has ended. `in_worker` is an
    expression in the page's worker. `screenshot` goes down to the table.
    """
    from playwright.sync_api import sync_playwright

    (folder / "page.html").write_text(text, "utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=[*FLAGS, *flags])
        context = browser.new_context(
            viewport={"width": width, "height": height}, is_mobile=mobile, color_scheme="dark" if dark else "light"
        )
        context.add_init_script(LOG)
        page: Any = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto((folder / "page.html").as_uri(), wait_until="commit")
        _until(page, f'![undefined, "Loading"].includes({STATUS})')
        if not at_once:
            _until(page, TESTED)
        found: dict[str, Any] = {"start": page.evaluate(STATUS)}
        if keys:
            found |= _press(page, keys)
        if files:
            page.set_input_files("#files", files)
        if dropped:
            _drop(page, dropped)
        if files or dropped:
            _until(page, f"/^Classified|Not usable/.test({STATUS})")
            found["rows"] = page.evaluate("rows.map((row) => ({ ...row, logits: row.logits && [...row.logits] }))")
            found["csv"] = page.evaluate("csv(rows)")
        if camera:
            page.evaluate('at("camera").click()')
            _until(page, f'{STATUS}.includes("frames/s") || !at("problem").hidden')
            page.wait_for_timeout(1000 * camera_s)
        if in_worker:
            found["in_worker"] = page.workers[0].evaluate(in_worker)
        _until(page, TESTED)
        found |= page.evaluate(SHOWN)
        if screenshot is not None:
            bottom = page.evaluate('16 + at("batch").getBoundingClientRect().bottom + scrollY')
            clip = {"x": 0, "y": 0, "width": width, "height": bottom}
            page.screenshot(path=screenshot, full_page=True, clip=clip)
        browser.close()
    return {**found, "problems": problems}


def _until(page: Any, expression: str) -> None:
    """Wait until it holds: not by Playwright's own waiting, which evaluates text in the page, as its policy forbids."""
    end = time.monotonic() + 100
    while not page.evaluate(expression):
        if time.monotonic() > end:
            raise TimeoutError(f"{expression} did not come true")
        page.wait_for_timeout(10)


def _press(page: Any, keys: Sequence[str]) -> dict[str, Any]:
    """Return what has the focus after each key, the kinds of choosers that open, and the names of all buttons."""
    choosers: list[bool] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser.is_multiple()))
    focused = []
    for key in keys:
        page.keyboard.press("Space" if key == " " else key)
        focused.append(page.evaluate(FOCUSED))
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    buttons = [node for node in nodes if not node["ignored"] and node["role"]["value"] == "button"]
    controls = [node["name"]["value"] for node in buttons]
    return {"focused": focused, "several_files": choosers, "controls": controls}


def _drop(page: Any, files: Sequence[str]) -> None:
    """Drag files over the page and drop them, as a hand does."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": list(files), "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 150, "data": data})
