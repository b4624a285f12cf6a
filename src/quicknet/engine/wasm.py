"""The WebAssembly modules that come with the package, and whether they are what the sources give.

They are kept in the package because few users have clang, wasm-ld and wasm-opt. `make wasm` makes them again and
writes beside them of which sources they were made, by which clang and wasm-opt.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
MODULE, RECORD = _HERE / "js" / "quicknet.wasm", _HERE / "js" / "quicknet.wasm.json"
PLAIN = _HERE / "js" / "quicknet-plain.wasm"  # without SIMD


def sources_sha256() -> str:
    """Return the digest over what the modules are compiled from: sources, headers, and how engine.mk does it."""
    settings = "".join(re.findall(r"^(?:WASM_|\t.*WASM_|\t-I).*\n", (_HERE / "engine.mk").read_text("utf-8"), re.M))
    names = re.findall(r"^WASM_(?:SMALL|FAST|PLAIN) := (.*)$", settings, re.M)
    sources = {_HERE / "csrc" / f"{name}.c" for line in names for name in line.split()}
    headers = [path for path in (_HERE / "csrc").glob("*.h") if not path.name.startswith("x86_")]
    parts = [*sources, *headers, *(_HERE / "js").rglob("*.[ch]")]
    digest = hashlib.sha256(settings.encode())
    for path in sorted(parts):
        digest.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


if __name__ == "__main__":
    made_by = {"clang": sys.argv[1], "wasm_opt": sys.argv[2], "sources_sha256": sources_sha256()}
    RECORD.write_text(json.dumps(made_by, indent=1) + "\n", "utf-8")
