"""A picture's address, such as https://example.org/a.jpg: fetched into memory, bounded in bytes and time.

Only the command line does so. A library that fetched whatever string it is given would let those
who name pictures to a server reach what only the server can reach.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, cast

from quicknet.core.errors import DataError
from quicknet.image.formats import image_suffixes
from quicknet.image.sources import is_web_address

LIMIT_BYTES = 100 << 20  # the largest JPEG of MAX_PIXELS at usual quality is about half of that
SILENCE_S = 15.0  # a server that sends nothing for so long is gone
LONGEST_S = 120.0
_CHUNK = 1 << 16
_SAFE = "%/:=&?~#+!$,;'@()*[]"  # what stands for itself in an address; spaces and umlauts do not


def is_picture_address(name: str) -> bool:
    """Return whether a name is a web address with an image's suffix; others are of videos and cameras.

    >>> is_picture_address("https://example.org/a.JPG?width=200"), is_picture_address("http://camera/video.mjpg")
    (True, False)
    """
    path = re.split("[?#]", name, maxsplit=1)[0].partition("://")[2].partition("/")[2]
    return is_web_address(name) and PurePosixPath(path).suffix.lower() in image_suffixes()


def fetch_picture(url: str, clock: Callable[[], float] = time.monotonic) -> io.BytesIO:
    """Return what lies at a web address, as a file of that name; whether it is a picture is not looked at.

    Redirects are followed to http and https only. Raises DataError for an address that does not
    answer, for over LIMIT_BYTES, and for over LONGEST_S seconds.
    """
    import http.client  # 25 ms together, which no file at hand should wait for
    import urllib.error
    import urllib.parse
    import urllib.request

    started = clock()
    try:
        request = urllib.request.Request(urllib.parse.quote(url, safe=_SAFE), headers={"User-Agent": "quicknet"})
        with _opener().open(request, timeout=SILENCE_S) as response:
            content = _content(response, url, lambda: clock() - started)
    except (http.client.HTTPException, OSError, ValueError) as error:  # ValueError: an address that cannot be read
        text = str(getattr(error, "reason", None) or error)
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            text = f"HTTP {error.code} {text}"
        text = " ".join(text.split()) or type(error).__name__
        raise DataError(f"cannot fetch the picture ({url}: {text}); check its address and the network") from error
    content.name = url
    return cast(io.BytesIO, content)


def _opener() -> Any:
    """Return what opens http and https and nothing else: urllib's own opens files and FTP, too."""
    import urllib.request as web

    opener = web.OpenerDirector()
    handlers = (web.ProxyHandler, web.UnknownHandler, web.HTTPHandler, web.HTTPSHandler, web.HTTPDefaultErrorHandler)
    for handler in (*handlers, web.HTTPRedirectHandler, web.HTTPErrorProcessor):
        opener.add_handler(handler())
    return opener


def _content(response: Any, url: str, seconds: Callable[[], float]) -> Any:
    """Return what a server sends, in memory. Raises DataError for too much, too slow, or a stream."""
    if response.headers.get_content_maintype() == "multipart":
        raise DataError(f"a stream where a picture is expected ({url}); give the address of its video")
    length = response.headers.get("Content-Length", "")
    stated = int(length) if length.isdecimal() else None
    content = io.BytesIO()
    while (stated or 0) <= LIMIT_BYTES and content.tell() <= LIMIT_BYTES:
        if seconds() > LONGEST_S:
            raise DataError(f"the picture takes over {LONGEST_S:.0f} s to arrive ({url}); fetch it to a file")
        if not (chunk := response.read1(_CHUNK)):
            break
        content.write(chunk)
    else:
        raise DataError(f"the picture is over the limit of {LIMIT_BYTES:,} bytes ({url}); fetch it to a file")
    if stated is not None and content.tell() < stated:
        raise DataError(f"the picture breaks off after {content.tell():,} of {stated:,} bytes ({url}); try again")
    return content
