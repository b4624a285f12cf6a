"""The card in a `.qnz`: its JSON as it is in CARD, or compressed in CARZ (FORMAT.md, "CARZ")."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import msgspec

from quicknet.core.card import LIMIT_BYTES, Card, parse_card
from quicknet.core.errors import FormatError
from quicknet.qnz.container import Section
from quicknet.qnz.format import CARD, CARZ, CARZ_HEADER

_LEVEL = 9
_DAMAGED = "export the model again"


def encode_card(card: Card) -> bytes:
    """Return the bytes of CARZ; the same card gives the same bytes from the same zlib.

    The test vectors' float logits are left out: they are the parent's, and what checks a `.qnz` is `integers`. They
    would be a quarter of the section. Raises FormatError for a card that readers refuse by its size.
    """
    if card.vectors is not None:
        card = card.replace(vectors=msgspec.structs.replace(card.vectors, logits=()))
    text = card.to_json(indent=None).encode()
    return CARZ_HEADER.pack(len(text)) + zlib.compress(text, _LEVEL)


def decode_card(sections: Mapping[str, Section], where: str) -> tuple[Card, str]:
    """Return the card of a file's checked sections, and the place where it lies, for messages. Raises FormatError."""
    if CARD in sections:
        where = f"{where}, section {CARD}"
        return parse_card(sections[CARD].data, where), where
    where = f"{where}, section {CARZ}"
    return parse_card(memoryview(_inflated(sections[CARZ].data, where)), where), where


def _inflated(section: memoryview, where: str) -> bytes:
    """Return the text of CARZ; no more memory is taken than the section says, and it may say LIMIT_BYTES at most."""
    if not CARZ_HEADER.size <= len(section) <= LIMIT_BYTES:
        raise FormatError(
            f"the compressed card is {len(section):,} bytes, outside {CARZ_HEADER.size}..{LIMIT_BYTES:,} "
            f"({where}); {_DAMAGED}"
        )
    (size_bytes,) = CARZ_HEADER.unpack_from(section)
    if size_bytes > LIMIT_BYTES:
        raise FormatError(
            f"the card would be {size_bytes:,} bytes, over the limit of {LIMIT_BYTES:,} ({where}); {_DAMAGED}"
        )
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(section[CARZ_HEADER.size :], size_bytes + 1)
    except zlib.error as error:
        raise FormatError(f"the compressed card is damaged: {error} ({where}); {_DAMAGED}") from error
    if len(text) != size_bytes or not inflater.eof or inflater.unused_data:
        raise FormatError(
            f"the compressed card does not end after {size_bytes:,} bytes and with its section ({where}); {_DAMAGED}"
        )
    return text
