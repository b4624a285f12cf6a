"""A network's plan, read from the network itself: its steps in order, each with its inputs.

What a class is called, or which modules it holds, does not say what its forward does with them:
a residual sum has no module. So whoever rewrites a network asks here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from quicknet.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: a module, which then has a `path` in the network, a function, or a tensor's method by its name.

    `inputs` are the steps whose output it takes, by number, the image being -1; `arguments` is
    everything else that it is called with.
    """

    what: nn.Module | Callable[..., Any] | str
    name: str  # in a message
    path: str
    inputs: tuple[int, ...]
    arguments: tuple[Any, ...]


class _Tracer(fx.Tracer):
    """Looks into every module that has parts."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(True for _ in m.children())


def topology(network: nn.Module) -> tuple[Step, ...]:
    """Return the steps from the image to what `network` returns, in order.

    Raises ConfigError where its forward cannot be followed, or a part of it has none of its own:
    a hook, another `forward` than its class's, or no call at all.
    """
    name = type(network).__name__
    try:
        graph = _Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{name} cannot be exported: its forward cannot be followed ({reason})") from error
    number: dict[fx.Node, int] = {}
    steps: list[Step] = []
    for node in graph.nodes:
        if node.op == "placeholder":
            number[node] = -1
            continue
        if node.op == "output":
            if [number[taken] for taken in node.all_input_nodes] != [len(steps) - 1]:
                raise ConfigError(f"{name} cannot be exported: it returns another output than its last step's")
            continue
        what = network.get_submodule(node.target) if node.op == "call_module" else node.target
        number[node] = len(steps)
        given = (*node.args, *(value for value in node.kwargs.values()))
        steps.append(
            Step(
                what=what,
                name=type(what).__name__ if node.op == "call_module" else node.name,
                path=node.target if node.op == "call_module" else "",
                inputs=tuple(number[taken] for taken in node.all_input_nodes),
                arguments=tuple(value for value in given if not isinstance(value, fx.Node)),
            )
        )
    for odd in _unseen(network, {step.path for step in steps}):
        raise ConfigError(f"{odd} cannot be exported: no rule folds it")
    return tuple(steps)


def _unseen(network: nn.Module, called: set[str]) -> Iterator[str]:
    """Yield what a trace does not show: parts that are never called, called otherwise, or watched."""
    for path, module in network.named_modules():
        parent = type(network.get_submodule(path.rpartition(".")[0])).__name__
        leaf = path.rpartition(".")[2]
        if not any(True for _ in module.children()):
            if path and path not in called and not isinstance(module, (nn.Sequential, nn.ModuleList)):
                yield f"{parent} with {leaf}, which it does not call,"
            elif "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
                yield f"{parent} with a changed {leaf or 'forward'}"
        elif not path and ("forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks):
            yield f"{parent} with a changed forward"


def require_chain(network: nn.Module, steps: tuple[Step, ...]) -> None:
    """Raise ConfigError, naming the step, where one takes anything but the output of the step before it."""
    for index, step in enumerate(steps):
        if step.inputs != (index - 1,):
            of = f"{len(step.inputs)} inputs" if len(step.inputs) != 1 else "an earlier step's output"
            raise ConfigError(
                f"{type(network).__name__} cannot be exported: {step.name} takes {of}, and only a chain of layers folds"
            )
