"""The picture of the page in docs/page.md: Chromium's, of the demo's model and drawn scenes.

    python docs/screenshot.py [SCENES.qnz]

`make docs` makes it again when the looks have changed, where Chromium, `make browser` and what `make demo` leaves are.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image, PngImagePlugin

from quicknet.qnz.file import read_qnz
from quicknet.report import page

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import browsing  # noqa: E402

PICTURE = ROOT / "docs" / "page.png"
SCENES = ("arrow", "ring", "spiral", "star")
_LOOKS = "looks"  # the PNG's text with the digest of what it shows


def looks() -> str:
    """Return the digest over what decides how the page looks."""
    folder = Path(page.__file__).parent
    paths = [folder / name for name in ("style.css", "page/page.css", "page/body.html", "page/page.mjs")]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


def update(model: Path = ROOT / "demo" / "scenes.qnz") -> str:
    """Make the picture again if it is of other looks. Returns a line that says what was done, "" for nothing."""
    name = PICTURE.relative_to(ROOT)
    if PICTURE.is_file():
        with Image.open(PICTURE) as image:
            if image.info.get(_LOOKS) == looks():
                return ""
    if browsing.chromium() is None:
        return (
            f"kept: {name}, though the page looks otherwise now; install Chromium, and make browser, to make it again"
        )
    if not model.is_file():
        return f"kept: {name}, though the page looks otherwise now; run make demo first to make it again"
    make(model)
    return f"written: {name}"


def make(model: Path) -> None:
    """Write the picture, down to the table, of at most 128 colours."""
    file = read_qnz(model)
    text = page.render_page(file.blob, file.card, page.PageSettings(title="Drawn scenes"))
    with tempfile.TemporaryDirectory(prefix="quicknet-") as folder:
        scenes = [Path(folder) / f"{scene}.png" for scene in SCENES]
        for scene in scenes:
            shutil.copy(model.parent / "scenes" / "test" / scene.stem / "00000.png", scene)
        shot = Path(folder) / "shot.png"
        names = list(map(str, scenes))
        browsing.browse(Path(folder), text, files=names, width=800, screenshot=shot)
        info = PngImagePlugin.PngInfo()
        info.add_text(_LOOKS, looks())
        Image.open(shot).convert("RGB").quantize(128).save(PICTURE, optimize=True, pnginfo=info)


if __name__ == "__main__":
    print(update(*map(Path, sys.argv[1:])) or f"{PICTURE.relative_to(ROOT)} is of the page as it looks")
