"""`page.html`: a classifier that anyone can open: the model, the engine and the code in one file, nothing fetched.

What comes from outside (class names, titles, names of files) is shown as text. A content security policy allows the
page its one script, by digest, the worker, and the pictures that a visitor chooses; no address at all.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re

from quicknet.core.card import Card
from quicknet.core.errors import ConfigError
from quicknet.core.settings import Settings
from quicknet.engine.wasm import MODULE, PLAIN
from quicknet.inference.receipt import recorded_predictions
from quicknet.report.html import document, escaped, facts_section, percent, resource

_SCRIPT = ("table", "page")  # of report/page/
_ENGINE = ("decode", "quicknet")  # of engine/js/
_WORKER = ("selftest", "worker")


class PageSettings(Settings, frozen=True, kw_only=True):
    """The page's title, "" for the data's name, and below which probability it says "unknown".

    `min_confidence` None: the card's threshold, or none where the card has none.
    """

    title: str = ""
    min_confidence: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is not a probability. Raises ConfigError."""
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"min_confidence {self.min_confidence} is a probability: 0..1")


def threshold_of(card: Card, settings: PageSettings) -> float:
    """Return the probability below which the page says "unknown"."""
    if settings.min_confidence is not None:
        return settings.min_confidence
    return card.unknown.min_confidence if card.unknown is not None else 0.0


def render_page(blob: bytes, card: Card, settings: PageSettings | None = None) -> str:
    """Return the whole page for a checked `.qnz` with its card; the same arguments give the same text."""
    settings = settings or PageSettings()
    title = settings.title or (card.data.name if card.data is not None else card.model.name)
    script = _bundle(_SCRIPT)
    values = {"title": escaped(title), "about": _about(card), "facts": facts_section(card)}
    threshold = threshold_of(card, settings)
    digest = hashlib.sha256(blob).hexdigest()
    values["digest"] = f"The model in it: {len(blob):,} bytes, sha256 {digest}. {_unknown(threshold)}"
    text = re.sub(r"\{(\w+)\}", lambda found: values[found[1]], resource("page/body.html"))
    data = (
        f"{_packed(_engine() + _bundle(_WORKER))}\n"
        f'<script type="application/octet-stream" id="model" data-threshold="{threshold!r}">'
        f"{base64.b64encode(blob).decode()}</script>\n"
        f"<script>{script}</script>"
    )
    style = _squeezed(resource("style.css") + resource("page/page.css"))
    return document(title, _policy(script), style, f"<main>\n{text}</main>\n{data}")


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # the worker is a blob of its own; it inherits this policy, and compiles the engine
    parts = ["default-src 'none'", f"script-src 'sha256-{digest}' blob: 'wasm-unsafe-eval'", "worker-src blob:"]
    parts += ["style-src 'unsafe-inline'", "img-src blob: data:", "media-src blob: mediastream:", "base-uri 'none'"]
    return "; ".join([*parts, "form-action 'none'"])


def _about(card: Card) -> str:
    """Return in a sentence or two what the model is and how good it is."""
    names = ", ".join(card.classes[:10]) + (", …" if len(card.classes) > 10 else "")
    about = f"It tells {len(card.classes):,} classes apart: {names}."
    receipt = recorded_predictions(card)
    if receipt is None or receipt.n == 0:
        return escaped(f"{about} It was never measured on data.")
    return escaped(
        f"{about} {percent(receipt.correct / receipt.n)} of {receipt.n:,} images right: split {receipt.split} of "
        f"{receipt.data}, protocol {receipt.protocol}."
    )


def _unknown(threshold: float) -> str:
    return f"Below {percent(threshold)} the answer is “unknown”." if threshold else "It never answers “unknown”."


def _packed(worker: str) -> str:
    """Return the worker's code and the two modules as one script of data, with the places where the modules begin.

    Together, and in this order: gzip looks back over 32 KB, and the two modules have much in common.
    """
    parts = worker.encode(), PLAIN.read_bytes(), MODULE.read_bytes()
    data = base64.b64encode(gzip.compress(b"".join(parts), 9, mtime=0)).decode()
    places = f"{len(parts[0])},{len(parts[0]) + len(parts[1])}"
    return f'<script type="application/octet-stream" id="engine" data-places="{places}">{data}</script>'


def _engine() -> str:
    paths = (MODULE.parent / f"{name}.mjs" for name in _ENGINE)
    return "".join(_squeezed(_without_modules(path.read_text("utf-8"))) for path in paths)


def _bundle(names: tuple[str, ...]) -> str:
    return "".join(_squeezed(_without_modules(resource(f"page/{name}.mjs"))) for name in names)


def _without_modules(code: str) -> str:
    """Return the code of a module for one script of several: nothing imported or exported."""
    return re.sub(r"^export ", "", re.sub(r"^import .*\n", "", code, flags=re.M), flags=re.M)


def _squeezed(code: str) -> str:
    """Return JavaScript or CSS without whole lines of comment, indentation and empty lines."""
    code = re.sub(r"^\s*/\*.*?\*/\s*$", "", code, flags=re.M | re.S)
    lines = (line.strip() for line in code.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("//"))
