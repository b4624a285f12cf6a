"""A lock on an open file that dies with its process, on POSIX systems and on Windows."""

from __future__ import annotations

import os
import sys
from typing import IO, Any

if sys.platform == "win32":
    import msvcrt

    # Past every byte that is written there: Windows refuses others to read what is locked.
    _AT = 1 << 30

    def lock_file(file: IO[Any], wait: bool) -> None:
        """Lock `file` for this process. Raises BlockingIOError where another holds it and `wait` is false."""
        file.flush()
        os.lseek(file.fileno(), _AT, os.SEEK_SET)
        while True:
            try:
                # LK_LOCK itself gives up after 10 seconds
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                break
            except OSError as error:
                if not wait:
                    raise BlockingIOError(error.errno, error.strerror) from error
        os.lseek(file.fileno(), 0, os.SEEK_END)

else:
    import fcntl

    def lock_file(file: IO[Any], wait: bool) -> None:
        """Lock `file` for this process. Raises BlockingIOError where another holds it and `wait` is false."""
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
