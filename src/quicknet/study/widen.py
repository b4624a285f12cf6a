"""`python -m quicknet.study.widen RUN NAME OUT`: a run folder's network at twice the width, with the same answers.

OUT is a run folder of the registry's network NAME, to go on training from. Each channel is there
twice, and the channel that reads it shares its weight out between the two at random, so that the
sums stay and the two learn different things from the first step on. Source: Chen, Goodfellow and
Shlens 2016, "Net2Net" (arXiv:1511.05641), §3.1, with the shares drawn anew for each weight.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import torch
from torch import Tensor

from quicknet.core.card import ModelRecord
from quicknet.core.errors import QuickNetError, ToolError
from quicknet.core.lineage import WidenStep
from quicknet.inference.shipped import locate
from quicknet.models.costs import count_costs
from quicknet.models.network import Network
from quicknet.models.predicates import options_of
from quicknet.models.registry import base_config, model_from_record
from quicknet.training.checkpoint import RunFolder, load_model


def widened(narrow: Network, wide: Network, seed: int = 0) -> dict[str, Tensor]:
    """Return tensors for `wide` with which it answers as `narrow` does.

    Each tensor's sides must be as long as the narrow one's, or twice as long; of a matrix or
    convolution the second side reads, all others repeat. Raises ToolError for other sides.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tensor.shape for name, tensor in wide.state_dict().items()}
    before = narrow.state_dict()
    if before.keys() != shapes.keys():
        raise ToolError("the two networks have other layers; take two widths of one family")
    return {name: _repeated(tensor, shapes[name], name, generator) for name, tensor in before.items()}


def _repeated(tensor: Tensor, shape: torch.Size, name: str, generator: torch.Generator) -> Tensor:
    """Return the tensor at the shape: channels twice, what reads twice as many channels shared out between them."""
    for side, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)):
        if new == 2 * old:
            tensor = torch.cat([tensor, tensor], side)
            if side == 1:
                share = torch.rand(shape[0], old, *tensor.shape[2:], generator=generator)
                tensor = tensor * torch.cat([share, 1 - share], 1)
        elif new != old:
            raise ToolError(f"{name!r} has {old} channels and would have {new}; name a network of twice the width")
    return tensor


def widen(run: Path, name: str, out: Path, seed: int = 0) -> float:
    """Write the run folder; return the largest difference between the logits of noise of the two networks.

    Raises CheckpointError or FormatError for a run that cannot be read, ToolError for a folder that is
    taken, ConfigError or ToolError for a network that is unknown or no such width of the same family.
    """
    narrow, card = load_model(run)
    if out.exists():
        raise ToolError(f"{out} exists; name a new folder")
    target = base_config(name)
    if type(target) is not type(narrow.config):
        raise ToolError(f"{name} is of another family than {card.model.name}; name one of the same, twice as wide")
    if options := sorted(options_of(narrow.plan)):
        raise ToolError(f"{run} has the option {options[0]}, which reads channels in another order; widen it without")
    widths = target.to_dict()
    config = card.model.config | {key: widths[key] for key in ("stem_width", "widths") if key in widths}
    record = ModelRecord(family=card.model.family, name=name, config=config)
    wide = model_from_record(record).eval()
    wide.load_state_dict(widened(narrow, wide, seed))
    step = WidenStep(parent_weights_sha256=card.weights_sha256, seed=seed)
    costs = count_costs(lambda: model_from_record(record))
    out.mkdir(parents=True)
    RunFolder(out).save_model(
        wide.state_dict(), card.replace(model=record, costs=costs, metrics=(), lineage=(*card.lineage, step))
    )
    shape = narrow.config.in_channels, narrow.config.image_size, narrow.config.image_size
    noise = torch.randn(8, *shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return float((wide(noise) - narrow(noise)).abs().max())


@click.command()
@click.argument("run")
@click.argument("name")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", type=int, default=0, show_default=True, help="Which random shares.")
def main(run: str, name: str, out: Path, seed: int) -> None:
    """Write the network of RUN at twice the width, which is the registry's NAME, into the new run folder OUT."""
    try:
        difference = widen(locate(run, "run"), name, out, seed)
    except QuickNetError as error:
        click.echo(f"quicknet: error: {error}", err=True)
        sys.exit(error.exit_code)
    click.echo(f"{out}: {name}, with the answers of {run} to {difference:.1e} of a logit")


if __name__ == "__main__":
    main()
