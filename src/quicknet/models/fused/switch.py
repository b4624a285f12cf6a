"""When the kernels stand back for torch's own operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn
from torch.utils import _python_dispatch as dispatch

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_disabled: ContextVar[bool] = ContextVar("_disabled", default=False)


@contextmanager
def disabled() -> Iterator[None]:
    """Keep every network on its plain path: for whoever checks the kernels, or what was made beside them."""
    token = _disabled.set(True)
    try:
        yield
    finally:
        _disabled.reset(token)


def switched_off() -> bool:
    """Return whether this is inside `disabled`."""
    return _disabled.get()


def observed(*modules: nn.Module) -> bool:
    """Return whether something wants to see or change torch's single operations, or the calls of these modules."""
    return (
        torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or torch.compiler.is_compiling()
        or dispatch.is_in_torch_dispatch_mode()
        or torch._C._are_functorch_transforms_active()
        or any(getattr(module, hooks) for module in modules for hooks in _HOOKS)
        or any("forward" in vars(module) for module in modules)
    )
