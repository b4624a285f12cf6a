"""Turns a `.qnz` into a C header for programs without files: `python -m quicknet.lite.c_array FILE.qnz > model.h`."""

from __future__ import annotations

import sys
from pathlib import Path

from quicknet.core.errors import FormatError, QuickNetError
from quicknet.lite.qnz import QnzFile, read_qnz

_PER_LINE = 20
_USAGE = "usage: python -m quicknet.lite.c_array FILE.qnz > model.h"


def c_string(text: str) -> str:
    r"""Return `text` in UTF-8 as a C string literal of plain ASCII.

    >>> print(c_string('caf\u00e9 "1"?'))
    "caf\303\251 \"1\"\077"
    """

    def letter(byte: int) -> str:
        if byte in b'"\\':
            return "\\" + chr(byte)
        # three octal digits, so that what follows can't be taken for a fourth; ? would begin a trigraph
        return chr(byte) if 32 <= byte < 127 and byte != ord("?") else f"\\{byte:03o}"

    return '"' + "".join(map(letter, text.encode())) + '"'


def c_header(file: QnzFile) -> str:
    """Return a C11 header: the file's bytes as the array `model`, and what a program must know, as macros.

    MODEL_SIZE, MODEL_SIDE, MODEL_CHANNELS, MODEL_CLASSES, MODEL_LOGIT_SCALE (a logit times it is the
    network's) and MODEL_CLASS_NAMES (an initializer of UTF-8 strings). Raises FormatError for a card
    that does not say the scale.
    """
    if file.card.integer is None:
        raise FormatError(f"the card has no logit scale ({file.path}); export the model again")
    names = ", ".join(map(c_string, file.card.classes))
    rows = (file.blob[at : at + _PER_LINE] for at in range(0, len(file.blob), _PER_LINE))
    return "\n".join(
        [
            f"/* sha256 {file.sha256}. Made by quicknet.lite.c_array; not to be edited. */",
            "#ifndef MODEL_SIZE",
            f"#define MODEL_SIZE {len(file.blob)}",
            f"#define MODEL_SIDE {file.network.side}",
            f"#define MODEL_CHANNELS {file.network.channels}",
            f"#define MODEL_CLASSES {len(file.card.classes)}",
            f"#define MODEL_LOGIT_SCALE {file.card.integer.logit_scale!r}",
            f"#define MODEL_CLASS_NAMES {{{names}}}",
            "static const _Alignas(64) unsigned char model[MODEL_SIZE] = {",
            *(",".join(map(str, row)) + "," for row in rows),
            "};",
            "#endif",
            "",
        ]
    )


def main(arguments: list[str]) -> int:
    """Print the header of the one file named; 2 and one line on stderr where that can't be done."""
    if len(arguments) != 1:
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        print(c_header(read_qnz(Path(arguments[0]))), end="")
    except QuickNetError as error:
        print(f"quicknet: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
