"""What augmentation costs: images/s for each kind, and the ratio to normalizing only.

    python benchmarks/bench_augment.py [--json] [--size 32] [--batch 512] [--threads 2]

Variants take turns in one process (A B C A B C ...), at least `--seconds` each, so that a drift
of the machine's speed meets them all; only the ratios compare between runs. The share is of a
training step at `--step` images/s: 1,000 is what `quicknet_xs` reaches with the fused kernels on
two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from quicknet.core.card import PreprocessSpec
from quicknet.data.augment import Augmenter, AugmentSettings, normalize

FLIP_CROP = AugmentSettings(flip="random", crop=4)
VARIANTS = {
    "flip + crop": FLIP_CROP,
    "flip + crop + cutout": FLIP_CROP.replace(cutout=16),
    "flip + crop + mixup": FLIP_CROP.replace(mixup=0.2),
    "flip + crop + cutmix": FLIP_CROP.replace(cutmix=1.0),
    "flip + crop + jitter": FLIP_CROP.replace(jitter=0.4),
    "flip + crop + scale": FLIP_CROP.replace(scale=(0.5, 1.0)),
    "flip + crop + trivial": FLIP_CROP.replace(trivial=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each variant")
    parser.add_argument("--step", type=float, default=1000.0, help="images/s of the training step")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(steps(options.size, options.batch), options.batch, options.seconds)
    base = float(rows[0]["images_per_s"])
    for row in rows:
        row["ratio_to_normalize"] = base / float(row["images_per_s"])
        row["share_of_step"] = options.step / float(row["images_per_s"])
    if options.json:
        report = {**vars(options), "torch": torch.__version__, "rows": rows}
        print(json.dumps({key: value for key, value in report.items() if key != "json"}, indent=1))
        return
    print(f"{options.size} px, batch {options.batch}, {options.threads} threads, torch {torch.__version__}")
    for row in rows:
        print(
            f"{row['name']:24} {row['images_per_s']:10,.0f} images/s (p95 {row['p95_ms']:.1f} ms a batch, "
            f"n = {row['n']})  {row['ratio_to_normalize']:6.1f}x normalizing, "
            f"{row['share_of_step']:6.2%} of a step at {options.step:,.0f} images/s"
        )


def steps(size: int, batch: int) -> dict[str, Callable[[int], object]]:
    """Return what is timed: functions of the repeat's number."""
    generator = torch.Generator().manual_seed(0)
    count = max(batch, min(50_000, 150_000_000 // (3 * size * size)))
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    spec = PreprocessSpec(size=size)

    def indices(repeat: int) -> torch.Tensor:
        return torch.randint(0, count, (batch,), generator=torch.Generator().manual_seed(repeat))

    def variant(settings: AugmentSettings) -> Callable[[int], object]:
        augmenter = Augmenter(images, labels, spec, settings, 0, 10)
        return lambda repeat: augmenter.batch(indices(repeat), epoch=repeat)

    timed: dict[str, Callable[[int], object]] = {
        "normalize only": lambda repeat: normalize(images[indices(repeat)], spec.mean, spec.std)
    }
    return {**timed, **{name: variant(settings) for name, settings in VARIANTS.items()}}


def measure(timed: dict[str, Callable[[int], object]], batch: int, seconds: float) -> list[dict[str, float | str]]:
    """Return a row for each function: n, images/s by the median, 95th percentile in ms."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(10_000):
        for name, step in timed.items():
            start = time.perf_counter()
            step(repeat)
            if repeat >= 3:  # the first ones fill caches and start threads
                times[name].append(time.perf_counter() - start)
        if repeat >= 12 and sum(map(sum, times.values())) > seconds * len(timed):
            break
    return [
        {
            "name": name,
            "n": len(took),
            "images_per_s": batch / statistics.median(took),
            "p95_ms": 1000 * statistics.quantiles(took, n=20)[-1],
        }
        for name, took in times.items()
    ]


if __name__ == "__main__":
    main()
