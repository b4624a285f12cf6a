"""What `benchmark`, `inspect` and `doctor` print."""

from __future__ import annotations

from quicknet.cli.schemas.parts import (
    FORMAT,
    any_object,
    flag,
    integer,
    listing,
    mapping,
    number,
    or_null,
    partial,
    record,
    text,
)

# --- benchmark -----------------------------------------------------------------------------

_SUBJECT = {
    "model": text("The model as it was named."),
    "runtime": text("The runtime that ran it."),
    "threads": integer("The number of threads."),
}
_FACTS = {
    "model": text("The model as it was named."),
    "name": text("The name of the network."),
    "input": text("Channels, height and width of the input, such as 3x32x32."),
    "parameters": or_null(integer("The number of parameters; null where the card does not tell.")),
    "macs": or_null(integer("Multiply-adds per image; null where the card does not tell.")),
    "size_bytes": integer("The size of the file, or of a run folder's weights, in bytes."),
}
_PEAK = record(
    "The speed of a large fp32 matrix product in the same run.",
    threads=integer("The number of threads."),
    n=integer("The number of repeats."),
    gmacs_median=number("Billions of multiply-adds per second, median."),
    gmacs_best=number("Billions of multiply-adds per second, best."),
    gmacs_per_core_second=number("Billions of multiply-adds per second of CPU time."),
    library=text("The library that computed it."),
)
_START = record(
    "Cold starts of one model: from starting Python to the first label.",
    model=_SUBJECT["model"],
    runtime=_SUBJECT["runtime"],
    n=integer("The number of starts."),
    median_s=number("Median in seconds."),
    fastest_s=number("The fastest start in seconds."),
    slowest_s=number("The slowest start in seconds."),
)
_ROW = record(
    "One case of one model in one runtime.",
    **_SUBJECT,
    cores=or_null(listing("The cores it was pinned to; null where pinning is not possible.", integer("A core."))),
    path=text("network: image to logits. whole: JPEG bytes to label.", "network", "whole"),
    batch=integer("Images at a time."),
    n=integer("The number of calls timed."),
    median_ms=number("Median time of a call in milliseconds."),
    p95_ms=number("95% of the calls took at most so many milliseconds."),
    images_per_second=number("Images per second, by the median."),
    ratio=number("Images per second over those of the first model and runtime in the same case."),
    cpu_ms=number("Mean CPU time of a call in milliseconds, all threads together."),
    cores_used=number("CPU time per elapsed time."),
    memory_bytes=integer("The largest resident memory of the process so far, in bytes."),
    gmacs_per_core_second=or_null(number("Billions of multiply-adds per second of CPU time; null for whole.")),
    peak_share=or_null(number("Share of the fp32 peak of one core, 0..1; null for whole.")),
)
BENCHMARK = record(
    "One object without --fps.",
    format=FORMAT,
    settings=any_object("What was measured: batches, threads, seconds, starts, runtimes, jpeg."),
    machine=any_object("The machine: cpu, cores, flags, governor, load_1min and more."),
    versions=mapping("Versions of what took part.", text("A version.")),
    runtimes=mapping("Each runtime and what it is.", text("What it is.")),
    models=listing("One entry per model.", record("One model.", **_FACTS)),
    jpegs=mapping("For each model the size of the JPEG files on the whole path.", text("Such as 640x480.")),
    peaks=listing("One entry per number of threads.", _PEAK),
    starts=listing("One entry per model and runtime.", _START),
    rows=listing("One entry per case, model and runtime.", _ROW),
)
_FRAMES = record(
    "One model at one rate.",
    **_SUBJECT,
    jpeg=text("The size of the frames, such as 640x480."),
    fps=number("Frames per second that arrived."),
    holds=flag("Whether the model holds this rate."),
    frames=integer("The number of frames that arrived."),
    answered=integer("How many were answered."),
    late=integer("How many were answered after the next one had arrived."),
    dropped=integer("How many were dropped."),
    median_ms=number("Median time from arrival to answer in milliseconds."),
    p95_ms=number("95% of the answers took at most so many milliseconds."),
    worst_ms=number("The slowest answer in milliseconds."),
    cpu_share=or_null(number("The share of one core that was allowed; null without a limit.")),
    cpu_share_used=or_null(number("The share of one core that was used; null without a limit.")),
    quota=text("How the limit was kept."),
)
_SMALLEST = record(
    "The smallest share of one core that holds the rate.",
    **_SUBJECT,
    cpu_share=or_null(number("The share; null where a whole core does not hold the rate.")),
    trials=listing("Everything that was tried, in order.", _FRAMES),
)
REALTIME = partial(
    "One object with --fps. Only --cpu-share auto gives smallest.",
    ("smallest",),
    format=FORMAT,
    machine=any_object("The machine: cpu, cores, flags, governor, load_1min and more."),
    versions=mapping("Versions of what took part.", text("A version.")),
    holds=flag("Whether all models hold the rate."),
    rows=listing("One entry per model and runtime.", _FRAMES),
    smallest=listing("One entry per model and runtime.", _SMALLEST),
)

# --- inspect, doctor -----------------------------------------------------------------------

_LAYER = partial(
    "One layer. Only the layers of a .qnz have the fields from pool on.",
    ("pool", "sums", "shift", "top", "middle_top", "bits", "kept", "size_bytes"),
    name=text("The name of the layer."),
    kind=text("The kind of the layer."),
    kernel=integer("The side of the kernel."),
    in_channels=integer("Input channels."),
    out_channels=integer("Output channels."),
    side=integer("The side of the output in pixels."),
    parameters=integer("The number of parameters."),
    macs=integer("Multiply-adds per image."),
    activation_bytes=integer("The size of the map that it leaves, in bytes; 0 for a classifier."),
    pool=flag("Whether a max pooling follows."),
    sums=or_null(integer("N of FORMAT.md: pairs of products that are added in 16 bits.")),
    shift=or_null(integer("The shift before the multiplier.")),
    top=or_null(integer("The largest value of the output.")),
    middle_top=or_null(integer("The largest value of the depthwise output.")),
    bits=integer("The bits of the largest weight with its sign."),
    kept=or_null(number("The share of the pointwise part's blocks of four weights that are not all zero.")),
    size_bytes=integer("The size of its numbers in bytes."),
)
_SECTION = record(
    "One section of the file.",
    kind=text("The kind of the section."),
    offset=integer("Where it begins, in bytes."),
    size_bytes=integer("Its size in bytes."),
    sha256=text("Its sha256."),
)
_CODING = record(
    "How the numbers of a coded .qnz are coded; null for other models.",
    name=text("The coding.", "huffman", "contexts"),
    tables_bytes=integer("Bytes of prefix codes."),
    places_bytes=integer("Bytes that say which blocks of weights are kept."),
    values_bytes=integer("Bytes of the weights in kept blocks."),
    others_bytes=integer("Bytes of all other numbers."),
)
_RECEIPT = record(
    "What the file was measured on when it was exported; null where it was not measured.",
    data=text("The name of the data."),
    split=text("The split that was measured."),
    protocol=text("How the data was split: standard or paper."),
    n=integer("The number of images measured."),
    correct=integer("How many were right."),
)
INSPECTION = record(
    "One object.",
    format=FORMAT,
    **_FACTS,
    layers=listing("The layers in order; empty where neither the card nor the network tells.", _LAYER),
    sections=listing("The sections of a .qnz in order; empty for other models.", _SECTION),
    receipt=or_null(_RECEIPT),
    coding=or_null(_CODING),
    intact=flag("Whether the weights have the sha256 that the card names."),
    files=mapping("Each file of the model and its size in bytes.", integer("Bytes.")),
    card=any_object("The whole card; docs/files.md describes it."),
)
NETWORK = record(
    "One object, for the name of a network that is not trained.",
    format=FORMAT,
    model=text("The network's name."),
    family=text("The name of its family."),
    input=text("Channels, height and width of the input, such as 3x32x32."),
    config=any_object("Every setting that the network is built from."),
    parameters=integer("The number of parameters."),
    macs=integer("Multiply-adds per image."),
    activation_bytes=integer("The size of all maps together, in bytes of float32."),
    peak_activation_bytes=integer("The size of the maps that are needed at one time, in bytes of float32."),
    layers=listing("The layers in order.", _LAYER),
)
_FINDING = record(
    "One finding.",
    kind=text("The kind of the finding, such as unreadable, empty_class, duplicate, leak, conflict or imbalance."),
    severity=text("How bad it is. A note is not a fault.", "error", "warning", "note"),
    message=text("A sentence that says what was found."),
    groups=listing(
        "The images; those that belong together are in one group.", listing("One group.", text("An image."))
    ),
)
EXAMINATION = record(
    "One object.",
    format=FORMAT,
    data=text("The data as it was named."),
    images=mapping(
        "The images that can be read: each split (all, where there are no splits) with its classes.",
        mapping("Each class with its number of images.", integer("Images.")),
    ),
    found=flag("Whether there is an error or a warning."),
    findings=listing("Everything that was found, the worst first.", _FINDING),
)
