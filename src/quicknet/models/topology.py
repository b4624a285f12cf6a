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

    `inputs` are the steps whose output it takes, by number, in the order of its arguments and as
    often as it takes them, the image being -1; `arguments` and `options` are everything else that
    it is called with.
    """

    what: nn.Module | Callable[..., Any] | str
    name: str  # in a message
    path: str
    inputs: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class _Tracer(fx.Tracer):
    """Looks into every module that has parts."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(True for _ in m.children())


def topology(network: nn.Module) -> tuple[Step, ...]:
    """Return the steps from the image to what `network` returns in eval mode, in order.

    Raises ConfigError where its forward cannot be followed, or a part of it has none of its own:
    a hook, another `forward` than its class's, or no call at all.
    """
    name = type(network).__name__
    number: dict[fx.Node, int] = {}
    steps: list[Step] = []
    for node in _traced(network).nodes:
        if node.op == "placeholder":
            if number and node.users:
                raise ConfigError(f"{name} cannot be exported: it takes {node.name} beside the image")
            number[node] = -1
            continue
        if node.op == "output":
            if not isinstance(node.args[0], fx.Node) or number[node.args[0]] != len(steps) - 1:
                raise ConfigError(f"{name} cannot be exported: it returns another output than its last step's")
            continue
        number[node] = len(steps)
        steps.append(_step(network, node, number))
    for odd in _unseen(network, {step.path for step in steps}):
        raise ConfigError(f"{odd} cannot be exported: no rule folds it")
    return tuple(steps)


def _traced(network: nn.Module) -> fx.Graph:
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        return _Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = type(network).__name__
        raise ConfigError(f"{what} cannot be exported: its forward cannot be followed ({reason})") from error
    finally:
        for module in training:
            module.training = True


def _step(network: nn.Module, node: fx.Node, number: dict[fx.Node, int]) -> Step:
    module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
    taken: list[int] = []
    fx.node.map_arg((node.args, node.kwargs), lambda of: taken.append(number[of]))
    return Step(
        what=node.target if module is None else module,
        name=node.name if module is None else type(module).__name__,
        path="" if module is None else str(node.target),
        inputs=tuple(taken),
        arguments=tuple(value for value in node.args if not _only_steps(value)),
        options={key: value for key, value in node.kwargs.items() if not _only_steps(value)},
    )


def _only_steps(value: Any) -> bool:
    """Return whether an argument is another step's output, or a list of such."""
    if isinstance(value, tuple | list):
        return bool(value) and all(_only_steps(part) for part in value)
    return isinstance(value, fx.Node)


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
