"""Training images per second: the fused kernels against plain torch, and their share of the peak.

    python benchmarks/bench_fused.py [--models quicknet_s speedy] [--batch 128] [--bf16] [--json]

A step is forward, loss, backward and SGD with Nesterov momentum on random images at 3x32x32. Each
variant lives in a process of its own (the fused one also changes how freed memory is kept); they
run in turn (A B C A B C ...), one at a time, and figures are medians over the rounds. `plain` is
torch's default layout, as a first training loop has it; `plain nhwc` is channels_last. `--bf16` puts all
of them under torch's autocast to bfloat16, for CPUs with AVX512-BF16. The peak is
that of a 2048 x 2048 float32 matrix product by torch's own library, the best of all rounds; shares
count 3 x the forward multiply-adds an image, as they are before minimal filtering saves some (`models/fused/dense.py`),
so that a dense network's may pass 100%.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

VARIANTS = ("fused", "plain", "plain nhwc")
PEAK_SIDE = 2048


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def make_step(name: str, batch: int, variant: str, bf16: bool) -> Callable[[], object]:
    import torch

    from quicknet.models.registry import create_model

    layout = torch.contiguous_format if variant == "plain" else torch.channels_last
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, 32, 32, generator=generator).contiguous(memory_format=layout)
    labels = torch.randint(10, (batch,), generator=generator)
    net: Any = create_model(name).to(memory_format=layout)  # type: ignore[call-overload]  # which torch leaves out
    # torch's own fused update for ours; its default for the plain loops
    options = {"fused": True} if variant == "fused" else {}
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, **options)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = net(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def serve(connection: Connection, variant: str, batch: int, threads: int, bf16: bool) -> None:
    """Answer a model's name with the seconds of one step, "peak" with those of the matrix product."""
    os.environ["QUICKNET_FUSED"] = "1" if variant == "fused" else "0"
    import torch

    from quicknet.models import fused

    torch.set_num_threads(threads)
    connection.send(fused.status())
    side = torch.randn(PEAK_SIDE, PEAK_SIDE)
    steps: dict[str, Callable[[], object]] = {"peak": lambda: side @ side}
    while (name := connection.recv()) is not None:
        if name not in steps:
            steps = {"peak": steps["peak"], name: make_step(name, batch, variant, bf16)}
            steps[name]()
        connection.send(seconds(steps[name]))


def measure(workers: dict[str, Connection], name: str, batch: int, rounds: int) -> dict[str, Any]:
    def ask(variant: str, what: str) -> float:
        workers[variant].send(what)
        return float(workers[variant].recv())

    first = next(iter(workers))
    times: dict[str, list[float]] = {variant: [] for variant in workers}
    for variant in workers:  # warm-up
        ask(variant, name)
    peak_seconds = min(ask(first, "peak") for _ in range(4))
    for _ in range(rounds):
        peak_seconds = min(peak_seconds, ask(first, "peak"), ask(first, "peak"))
        for variant in workers:
            times[variant] += [ask(variant, name), ask(variant, name)]
    from quicknet.models.costs import count_costs
    from quicknet.models.registry import create_model

    peak = PEAK_SIDE**3 / peak_seconds / 1e9
    medians = {v: statistics.median(t) for v, t in times.items()}
    work = 3 * batch * count_costs(lambda: create_model(name)).macs / 1e9
    return {
        "model": name,
        "batch": batch,
        "steps": 2 * rounds,
        "peak_gmacs": peak,
        "images_per_s": {v: batch / m for v, m in medians.items()},
        "best_images_per_s": {v: batch / min(times[v]) for v in workers},
        "share_of_peak": {v: work / m / peak for v, m in medians.items()},
        "fused_over": {v: m / medians["fused"] for v, m in medians.items() if v != "fused"},
    }


def show(row: dict[str, Any]) -> None:
    print(f"{row['model']}, batch {row['batch']}, median of {row['steps']} steps; peak ", end="")
    print(f"{row['peak_gmacs']:.1f} G multiply-adds/s ({PEAK_SIDE}^3 float32 matrix product)")
    for variant, rate in row["images_per_s"].items():
        ratio = row["fused_over"].get(variant)
        best, share = row["best_images_per_s"][variant], row["share_of_peak"][variant]
        text = f"  {variant:11s} {rate:8.1f} images/s (best {best:.1f}), {share:5.1%} of peak"
        print(text + (f"; fused is {ratio:.2f}x" if ratio else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["quicknet_xs", "quicknet_s", "quicknet"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    context = mp.get_context("spawn")
    workers, statuses = {}, {}
    for variant in VARIANTS:
        workers[variant], theirs = context.Pipe()
        settings = (variant, args.batch, args.threads, args.bf16)
        context.Process(target=serve, args=(theirs, *settings), daemon=True).start()
        statuses[variant] = workers[variant].recv()
    rows = [measure(workers, name, args.batch, args.rounds) for name in args.models]
    for connection in workers.values():
        connection.send(None)
    if args.json:
        print(json.dumps({"threads": args.threads, "fused": statuses["fused"], "results": rows}, indent=1))
        return
    print(f"{args.threads} threads; {statuses['fused']}")
    for row in rows:
        show(row)


if __name__ == "__main__":
    main()
