"""Standard output and error of the command: what cannot be told is dropped, what cannot be answered is a failure.

Standard error carries progress and notes, so losing it (a closed terminal, cron, `2>&-`, a full
disk) ends no work. Standard output carries results: where they cannot be written the command
fails. Both are decided below the text layer, so that click, rich, logging and warnings follow.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from quicknet.core.errors import ToolError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class ReaderLeft(Exception):
    """Whoever read our standard output has gone.

    Not a BrokenPipeError, for which rich would end the process with exit code 1.
    """


class _Output(io.RawIOBase):
    """Bytes to an unbuffered stream, whose first failure is said in words; later bytes are dropped.

    Dropped, because Python tries again when it closes the stream, and would complain of that.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self._failed = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: ReadableBuffer, /) -> int | None:
        size = memoryview(data).nbytes
        if self._failed or not size:  # click tries what a stream takes by writing nothing to it
            return size
        try:
            return self._raw.write(data)
        except BrokenPipeError as error:
            self._failed = True
            raise ReaderLeft from error
        except OSError as error:
            self._failed = True
            raise ToolError(
                f"cannot write the results ({error.strerror or error}: standard output); "
                "give it a terminal, a file on a disk with room, or /dev/null"
            ) from error


class _Messages(_Output):
    """The same for messages: what cannot be written is dropped."""

    def write(self, data: ReadableBuffer, /) -> int | None:
        try:
            written = self._raw.write(data)
        except (OSError, ValueError):  # ValueError: something closed the stream
            written = None
        # all of it, even where a stream that never waits took less: nobody tries again
        return memoryview(data).nbytes if written is None else written


def install_streams() -> None:
    """Give this process its standard streams. Called once, before anything is opened or written."""
    _open_closed_descriptors()
    sys.stdout = _stream(sys.stdout, 1, _Output)
    sys.stderr = _stream(sys.stderr, 2, _Messages)


def _open_closed_descriptors() -> None:
    """Put the null device where a standard stream is closed.

    Otherwise the next file that is opened gets the number, and whatever a native library prints
    is written into it. Output's is opened for reading, so that writing to it fails.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)


def _stream(stream: TextIO | None, number: int, kind: type[_Output]) -> TextIO:
    """Return a text stream that writes where `stream` does, in the same encoding."""
    if stream is None:  # it was closed when Python started
        raw: io.RawIOBase = io.FileIO(number, "w", closefd=False)
        return io.TextIOWrapper(io.BufferedWriter(kind(raw)), "utf-8", "backslashreplace", line_buffering=True)
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    unbuffered = not hasattr(stream.buffer, "raw")  # python -u
    raw = stream.buffer if unbuffered else stream.buffer.raw
    buffer: Any = kind(raw) if unbuffered else io.BufferedWriter(kind(raw))
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        errors="backslashreplace",  # what a terminal has no letters for is not a failure
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
