"""Opens a page in headless Chromium: for tests, the picture in the docs and the benchmark."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def programs() -> tuple[str, str] | None:
    """Return the paths of Node and Chromium, None where one of them is missing."""
    node, chromium = shutil.which("node"), next(filter(None, map(shutil.which, CHROMIUM)), None)
    return (node, chromium) if node and chromium else None


def browse(folder: Path, page: str, **wish: Any) -> Any:
    """Open the text of a page and do what `report/browser.mjs` is asked for; return what it prints."""
    found = programs()
    assert found is not None, "ask programs() first"
    node, chromium = found
    (folder / "page.html").write_text(page, "utf-8")
    wish |= {"page": (folder / "page.html").as_uri(), "profile": str(folder / "profile")}
    script = Path(__file__).parent / "report" / "browser.mjs"
    command = [node, str(script), chromium, json.dumps(wish)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout)
