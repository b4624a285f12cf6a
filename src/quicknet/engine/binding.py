"""The engine's library, opened with ctypes, which releases the interpreter's lock while it computes."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import time
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quicknet.core.compile import Built
from quicknet.core.errors import ConfigError, DataError, FormatError, ToolError, nearest
from quicknet.core.options import MOST_THREADS
from quicknet.engine.build import ensure_built, prebuilt

# As quicknet.h numbers them.
_ISAS = {"best": 0, "portable": 1, "avx2": 2, "avx512vnni": 3, "neon": 4, "neon-dot": 5, "wasm": 6}
_MEMORY, _ISA, _THREADS = 8, 9, 10
_POINTWISE = {"faster": 0, "dense": 0x100, "sparse": 0x200}  # added to an instruction set
_PARTS = {"depthwise": 0, "output": 1, "sums": 2}  # of qn_trace
_ALIGN = 64


class _Info(ctypes.Structure):
    _fields_ = [
        ("side", ctypes.c_uint32),
        ("channels", ctypes.c_uint32),
        ("classes", ctypes.c_uint32),
        ("layers", ctypes.c_uint32),
        ("multiply_adds", ctypes.c_uint64),
        ("section", ctypes.c_char * 5),
    ]


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, size, number, number32 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int32
    file: list[Any] = [ctypes.c_char_p, size]
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "qn_check": (number, [*file, ctypes.POINTER(_Info)]),
        "qn_strerror": (ctypes.c_char_p, [number]),
        "qn_decode": (number, [*file, pointer, size, ctypes.POINTER(ctypes.c_uint64)]),
        "qn_memory": (size, [*file, number]),
        "qn_open": (number, [ctypes.POINTER(pointer), *file, pointer, size, number, number]),
        "qn_run": (None, [pointer, pointer, size, pointer]),
        "qn_trace": (number, [pointer, pointer, number32, number32, pointer]),
        "qn_repeat": (number, [pointer, pointer, number32, number32, ctypes.c_uint64, pointer]),
        "qn_trace_shape": (number, [pointer, number32, number32, ctypes.POINTER(number32)]),
        "qn_describe": (None, [pointer, ctypes.POINTER(_Info)]),
        "qn_isa_name": (ctypes.c_char_p, [pointer]),
        "qn_is_sparse": (number, [pointer, number32]),
        "qn_has": (number, [number]),
        "qn_peak": (ctypes.c_uint64, [number, number32, ctypes.c_uint64]),
        "qn_close": (None, [pointer]),
        "qn_prepare_memory": (size, [pointer, pointer]),
        "qn_prepare": (number, [pointer, pointer, pointer, size, pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@functools.cache
def _loaded() -> tuple[Built, ctypes.CDLL | None]:
    built = ensure_built()
    if built.library is None:
        return built, None
    try:
        return built, _declared(ctypes.CDLL(str(built.library)))
    except (OSError, AttributeError) as error:
        return Built(None, f"engine: cannot be loaded, numpy's reference runs ({built.library}: {error})"), None


def loaded_library() -> ctypes.CDLL:
    """Return the library with its functions declared. Raises ToolError without an engine."""
    built, library = _loaded()
    if library is None:
        raise ToolError(f"the engine is not there: {built.status}")
    return library


def at_hand() -> bool:
    """Return whether the engine runs here without being compiled for it: a wheel's, or one that is loaded already."""
    return (prebuilt() is not None or _loaded.cache_info().currsize > 0) and available()


def available() -> bool:
    """Return whether the engine runs here, compiling it where that has not been done."""
    return _loaded()[1] is not None


def status() -> str:
    """Return one line: where the library is and what it runs on, or why there is none."""
    built, library = _loaded()
    return built.status if library is None else f"{built.status}, by {instruction_sets()[-1]}"


def instruction_sets() -> tuple[str, ...]:
    """Return the names of those that this CPU has, the fastest last. Raises ToolError without an engine."""
    library = loaded_library()
    return tuple(name for name, isa in _ISAS.items() if name != "best" and library.qn_has(isa))


def peak_rate(isa: str, sums: int, samples: int = 50) -> float:
    """Return the multiply-adds per second of an instruction set's inner loop, all in registers: its ceiling.

    The median of samples of about a millisecond, which other processes seldom divide. `sums`
    is FORMAT.md's N: 1, 2 or 4. Raises ConfigError for an unknown name, ToolError for
    instructions that this CPU lacks.
    """
    library, code = loaded_library(), _code(isa)
    if not library.qn_has(code):
        raise ToolError(f"this CPU does not have {isa}; it has {', '.join(instruction_sets())}")
    rounds, rates = 1 << 18, []
    for _ in range(samples):
        start = time.perf_counter()
        done = library.qn_peak(code, sums, rounds)
        rates.append(done / (time.perf_counter() - start))
    return float(np.median(rates))


def decode(blob: bytes, size_bytes: int) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """Return the numbers of a file that has them coded, the `size_bytes` of TENS, within FORMAT.md's bounds.

    Also returns how many bits of CODE are tables, places of blocks, values of blocks, and other numbers.
    Raises FormatError for a file that is foreign, damaged or out of bounds, ToolError without an engine.
    """
    library, numbers, bits = loaded_library(), np.empty(size_bytes, np.uint8), (ctypes.c_uint64 * 4)()
    error = library.qn_decode(blob, len(blob), numbers.ctypes.data, size_bytes, bits)
    if error:
        raise FormatError(library.qn_strerror(error).decode())
    return numbers, tuple(bits)


def _code(isa: str) -> int:
    if isa not in _ISAS:
        raise ConfigError(f"no instruction set called {isa!r}{nearest(isa, _ISAS)}")
    return _ISAS[isa]


class _Opened:
    """The engine in memory of its own; ended where nobody holds it any more."""

    def __init__(self, blob: bytes, threads: int, isa: int) -> None:
        self.library, self.handle, self.info = loaded_library(), ctypes.c_void_p(), _Info()
        size = self.library.qn_memory(blob, len(blob), threads)
        self._memory = np.empty(size + _ALIGN, np.uint8)
        address = -(-self._memory.ctypes.data // _ALIGN) * _ALIGN
        opened = ctypes.byref(self.handle)
        error = self.library.qn_open(opened, blob, len(blob), address, size, threads, isa)
        if error:
            self._refuse(blob, error)
        self.library.qn_describe(self.handle, ctypes.byref(self.info))
        self._finalizer = weakref.finalize(self, self.library.qn_close, self.handle)

    def _refuse(self, blob: bytes, error: int) -> None:
        text = self.library.qn_strerror(error).decode()
        if error in (_MEMORY, _ISA, _THREADS):
            raise ToolError(f"the engine does not start: {text}")
        self.library.qn_check(blob, len(blob), ctypes.byref(self.info))
        section = self.info.section.decode()
        raise FormatError(f"not a network that the engine runs: {text}" + (f" (section {section})" if section else ""))

    def forget(self) -> None:
        """In a forked child: the threads are not there, so nothing may wait for them."""
        self._finalizer.detach()


class Engine:
    """A `.qnz` file's network, ready to run; several Python threads may share one.

    `blob` is the file; `threads` share a batch's images, or a single image; `isa` is "best" or a
    name that `instruction_sets` gives. `pointwise` is for tests and measuring: "faster" runs each
    layer by dense or sparse kernels as its share of zeros says, "dense" none by sparse ones,
    "sparse" every one whose packed weights take no more memory than dense. Raises FormatError for
    a file that is foreign, damaged or out of bounds, ConfigError for settings that nothing has,
    ToolError where this machine lacks the engine, the instruction set, or the threads.
    """

    def __init__(self, blob: bytes, threads: int = 1, isa: str = "best", pointwise: str = "faster") -> None:
        if pointwise not in _POINTWISE:
            raise ConfigError(f"no pointwise kernels called {pointwise!r}{nearest(pointwise, _POINTWISE)}")
        if not 1 <= threads <= MOST_THREADS:
            raise ConfigError(f"the engine runs on 1 to {MOST_THREADS} threads, not {threads}")
        self._arguments = (blob, threads, _code(isa) | _POINTWISE[pointwise])
        self._lock = threading.Lock()
        self._opened: _Opened | None = _Opened(*self._arguments)
        info = self._opened.info
        self.shape = (info.side, info.side, info.channels)
        self._classes, self.layers = int(info.classes), int(info.layers)
        self.isa: str = self._opened.library.qn_isa_name(self._opened.handle).decode()
        _engines.add(self)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Return the integer logits (N, classes) of images (N, side, side, channels) uint8, for any N.

        Raises DataError for images of another shape or type.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise DataError(
                f"the network takes uint8 images (N, {expected}), not {images.dtype} {images.shape}; "
                "decode them by the card's spec"
            )
        images = np.ascontiguousarray(images)
        logits = np.empty((len(images), self._classes), np.int32)
        with self._lock:
            opened = self._reopened()
            opened.library.qn_run(opened.handle, images.ctypes.data, len(images), logits.ctypes.data)
        return logits

    def trace(self, image: NDArray[np.uint8], layer: int, part: str) -> NDArray[Any]:
        """Return what a layer (0: the stem) computes of one image (side, side, channels) uint8.

        `part` is "depthwise" or "output", before a pool, (side, side, channels) uint8; or "sums" of
        the last map, (features,) int32. Raises DataError for an image of another shape, ConfigError
        where there is no such layer or part.
        """
        image, shape = self._checked(image), (ctypes.c_int32 * 3)()
        with self._lock:
            opened = self._reopened()
            code = _PARTS.get(part, -1)
            if opened.library.qn_trace_shape(opened.handle, layer, code, shape):
                raise ConfigError(f"there is no {part!r} of layer {layer}; parts are {', '.join(_PARTS)}")
            out = np.empty(tuple(shape), np.uint8) if part != "sums" else np.empty(shape[2], np.int32)
            opened.library.qn_trace(opened.handle, image.ctypes.data, layer, code, out.ctypes.data)
        return out

    def _checked(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if image.dtype != np.uint8 or image.shape != self.shape:
            raise DataError(f"the network takes a uint8 image {self.shape}, not {image.dtype} {image.shape}")
        return np.ascontiguousarray(image)

    def seconds(self, image: NDArray[np.uint8], layer: int, part: str, at_least: float = 1e-3) -> float:
        """Return the processor time of a layer's part for one image (side, side, channels) on one thread.

        Parts as in `trace`; "output" is the whole layer, "sums" the head. It is repeated until
        `at_least` seconds have passed. Call `run` before. Raises as `trace`.
        """
        image, logits, count = self._checked(image), np.empty(self._classes, np.int32), 1
        with self._lock:
            opened = self._reopened()
            arguments = (opened.handle, image.ctypes.data, layer, _PARTS.get(part, -1))
            while True:
                start = time.thread_time()
                if opened.library.qn_repeat(*arguments, count, logits.ctypes.data):
                    raise ConfigError(f"there is no {part!r} of layer {layer}; parts are {', '.join(_PARTS)}")
                spent = time.thread_time() - start
                if spent >= at_least:
                    return spent / count
                count = max(2 * count, int(1.1 * count * at_least / max(spent, 1e-6)))

    def sparse_layers(self) -> tuple[bool, ...]:
        """Return for each layer, the stem first, whether its pointwise runs by the sparse kernels."""
        with self._lock:
            opened = self._reopened()
            layers = range(opened.info.layers)
            return tuple(bool(opened.library.qn_is_sparse(opened.handle, layer)) for layer in layers)

    def _reopened(self) -> _Opened:
        """Return the engine in memory, opening it again in a forked child; the lock is held."""
        if self._opened is None:
            self._opened = _Opened(*self._arguments)
        return self._opened

    def _after_fork(self) -> None:
        """Drop what a forked child did not inherit: threads, and a lock that one of them may hold."""
        self._lock = threading.Lock()
        if self._opened is not None:
            self._opened.forget()
            self._opened = None


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork() -> None:
    for engine in list(_engines):
        engine._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
