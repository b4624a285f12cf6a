"""What `compare` prints."""

from __future__ import annotations

from quicknet.cli.schemas.parts import (
    FORMAT,
    Schema,
    any_object,
    flag,
    integer,
    listing,
    mapping,
    number,
    or_null,
    record,
    text,
)


def _speed(numbers: str, runtime: str) -> Schema:
    return or_null(
        record(
            f"One image at a time on one core in {numbers}, the network alone; null where it was not measured.",
            runtime=text(f"The runtime that ran it: {runtime}."),
            n=integer("The number of calls timed."),
            median_ms=number("Median time of a call in milliseconds."),
            p95_ms=number("95% of the calls took at most so many milliseconds."),
            images_per_second=number("Images per second, by the median."),
            cpu_ms=number("CPU time of a call in milliseconds, the median over rounds."),
            ratio=or_null(number("CPU time of the base over its own, the median over rounds; null without the base.")),
        )
    )


_OURS = record(
    "One accuracy that was measured here.",
    numbers=text("The numbers of the network that was measured: float32 or int8."),
    top1=number("The share of images that were right, 0..1; mean over seeds."),
    spread=or_null(number("Standard deviation over seeds; null for one seed.")),
    protocol=text("How the data was split: standard."),
    split=text("The split that was measured."),
    n=integer("The number of images measured."),
    seeds=listing("The seeds; empty where they are not known.", integer("A seed.")),
    source=text("A record under results/, or the name of shipped weights."),
    alike=text("What all networks of this training were given, such as about 6 minutes; empty for others."),
    epochs=or_null(integer("Epochs, where networks were trained alike; null for others.")),
    minutes=or_null(number("Minutes, where networks were trained alike, mean over seeds; null for others.")),
    teacher=flag("Whether it learned from another network's answers."),
)
_UNTRAINED = record(
    "Where others were trained alike, and this network was not.",
    alike=text("What the other networks were given."),
    source=text("The record under results/."),
    why=text("Why this network was left out."),
)
_PUBLISHED = record(
    "One accuracy that others published.",
    top1=number("The share of images that were right, 0..1."),
    note=text("The conditions that the publication names."),
    source=text("The address of the publication."),
    passes=integer("Passes through the network whose answers were averaged; a latency here is that of one."),
)
_NETWORK = record(
    "One network; the base is the first.",
    name=text("The name of the network."),
    counted_as=text("The network whose counts these are: itself, or the form that export makes of it."),
    input=text("Channels, height and width of the input, such as 3x32x32."),
    parameters=integer("The number of parameters."),
    macs=integer("Multiply-adds per image."),
    float_bytes=integer("The size of its float ONNX file in bytes."),
    float_bytes_measured=flag("Whether that was measured; if not, it is 4 bytes a parameter."),
    int8_bytes=integer("The size of its .qnz in bytes."),
    int8_bytes_measured=flag("Whether that was measured; if not, it is 1 byte a parameter."),
    peak_activation_bytes=integer("The largest set of float32 feature maps needed at one time, in bytes."),
    energy_float_uj=number("Estimated energy of one image with float32 numbers, in microjoules."),
    energy_int8_uj=number("Estimated energy of one image with 8-bit numbers, in microjoules."),
    float32=_speed("float32", "onnxruntime"),
    int8=_speed("int8", "engine"),
    ours=listing("Accuracies on CIFAR-10 that were measured here.", _OURS),
    untrained=listing("Where others were trained alike and this network was not.", _UNTRAINED),
    published=listing("Accuracies on CIFAR-10 that others published.", _PUBLISHED),
    notes=listing("Why figures are absent.", text("A reason.")),
)
_PAPER = record(
    "One row of the paper's table.",
    name=text("The network as the paper names it."),
    network=text("The network here that stands for it."),
    top1=or_null(number("The accuracy that the paper's table says, 0..1; null where it is not known here.")),
    trap=text("Why the row cannot be compared with the others."),
)
COMPARISON = record(
    "One object.",
    format=FORMAT,
    base=text("The network that ratios are over."),
    size=or_null(integer("The image size in pixels; null for each network's own.")),
    machine=any_object("The machine: cpu, cores, flags, governor, load_1min and more."),
    versions=mapping("Versions of what took part.", text("A version.")),
    seconds=number("How long the comparison took, in seconds."),
    kept=integer("How many networks' measurements came from the state file."),
    assumptions=listing("What the figures assume.", text("A paragraph.")),
    networks=listing("One entry per network.", _NETWORK),
    paper=listing("The paper's table with --paper; empty without.", _PAPER),
)
