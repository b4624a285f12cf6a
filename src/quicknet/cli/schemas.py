"""What --json prints, verb by verb, as JSON Schema; `--json-schema` and docs/commands.md show it.

The schemas are written here and not derived from the records, because the records of `train` and
`export` lie in modules that import torch, and `--json-schema` works without it. A test holds the
schemas to the records' fields and types.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def _text(description: str, *values: str) -> Schema:
    return {"type": "string", **({"enum": list(values)} if values else {}), "description": description}


def _integer(description: str) -> Schema:
    return {"type": "integer", "description": description}


def _number(description: str) -> Schema:
    return {"type": "number", "description": description}


def _flag(description: str) -> Schema:
    return {"type": "boolean", "description": description}


def _list(description: str, items: Schema) -> Schema:
    return {"type": "array", "items": items, "description": description}


def _map(description: str, values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values, "description": description}


def _any_object(description: str) -> Schema:
    return {"type": "object", "description": description}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _record(description: str, **fields: Schema) -> Schema:
    """An object that has all `fields`."""
    return _partial(description, (), **fields)


def _partial(description: str, absent: tuple[str, ...], **fields: Schema) -> Schema:
    """An object that has all `fields`, but perhaps not those in `absent`."""
    required = [name for name in fields if name not in absent]
    return {"type": "object", "properties": fields, "required": required, "description": description}


def _verb(name: str, *variants: Schema) -> Schema:
    """The schema of a verb, whose output is one of `variants`."""
    head = {"$schema": _DIALECT, "title": f"quicknet {name} --json"}
    return {**head, **variants[0]} if len(variants) == 1 else {**head, "anyOf": list(variants)}


_FORMAT = {"const": 1, "type": "integer", "description": "The version of this schema."}
_BALANCED = {
    "balanced_accuracy": _number("Mean over the classes of the share of each that was right, 0..1."),
    "majority_share": _number("Accuracy of always answering with the largest class, 0..1."),
}
_ENERGY = _or_null(_number("Energy of the processors in joules; null where the machine does not report it."))


# --- train ---------------------------------------------------------------------------------

_EPOCH = _record(
    "One line after each epoch, as in log.jsonl.",
    event={"const": "epoch", "type": "string", "description": "The kind of the line."},
    epoch=_integer("The number of the epoch, from 1."),
    train_loss=_number("Mean training loss in nats."),
    train_accuracy=_number("Share of the training images that were right, 0..1."),
    val_loss=_or_null(_number("Mean validation loss in nats; null where the epoch was not validated.")),
    val_accuracy=_or_null(_number("Share of the validation images that were right, 0..1; null as above.")),
    val_balanced_accuracy=_or_null(
        _number("Mean over the classes of the share of each that was right, 0..1; null as above.")
    ),
    best=_flag("Whether this is the best epoch so far."),
    learning_rate=_number("The learning rate at the end of the epoch."),
    image_size=_integer("The side of the training images in pixels."),
    images_per_second=_number("Training images per second."),
    seconds=_number("Duration of the epoch in seconds."),
    energy_joules=_ENERGY,
)
_RESULT = _record(
    "The last line: what the best epoch reaches.",
    event={"const": "result", "type": "string", "description": "The kind of the line."},
    run=_text("The run folder."),
    split=_text("The split that was measured: test, or val where there is no test."),
    n=_integer("The number of images measured."),
    top1=_number("Accuracy, 0..1."),
    top1_low=_number("Lower end of its 95% interval."),
    top1_high=_number("Upper end of its 95% interval."),
    **_BALANCED,
    protocol=_text("How the data was split: standard or paper."),
    best_epoch=_integer("The epoch whose weights were kept."),
    seconds=_number("Duration of the training in seconds."),
    energy_joules=_ENERGY,
)

# --- evaluate ------------------------------------------------------------------------------

_CLASS = _record(
    "One class.",
    name=_text("The name of the class."),
    n=_integer("The number of its images."),
    correct=_integer("How many of them were right."),
    precision=_or_null(_number("Share of the answers with this class that were right; null without answers.")),
    recall=_or_null(_number("Share of the images of this class that were right; null without images.")),
)
_BIN = _record(
    "One step of confidence.",
    n=_integer("The number of images in it."),
    confidence=_number("Their mean confidence, 0..1."),
    accuracy=_number("The share of them that were right, 0..1."),
)
_EVALUATION = _record(
    "One object.",
    model=_text("The model that was measured."),
    file_sha256=_text("The sha256 of its weights."),
    data=_text("The name of the data."),
    split=_text("The split that was measured."),
    protocol=_text("How the data was split: standard or paper."),
    n=_integer("The number of images measured."),
    top1=_number("Accuracy, 0..1."),
    top1_low=_number("Lower end of its 95% interval."),
    top1_high=_number("Upper end of its 95% interval."),
    top5=_or_null(_number("Share of images whose class is among the best five; null with fewer than 6 classes.")),
    **_BALANCED,
    classes=_list("One entry per class, in the order of the card.", _CLASS),
    confusion=_list(
        "Counts of images: one row per true class, one column per predicted class.",
        _list("One true class.", _integer("The number of images.")),
    ),
    temperature=_or_null(_number("The temperature in the card; null where none was fitted.")),
    nll=_number("Negative log-likelihood in nats at temperature 1."),
    ece=_number("Expected calibration error at temperature 1, 0..1."),
    nll_calibrated=_or_null(_number("Negative log-likelihood at the card's temperature; null without one.")),
    ece_calibrated=_or_null(_number("Expected calibration error at the card's temperature; null without one.")),
    unknown=_or_null(
        _record(
            "From which probability on an answer is believed; null where the card has no threshold.",
            min_confidence=_number("The threshold of predict --unknown, 0..1."),
            split=_text("The split it was chosen on."),
            n=_integer("The number of images of that split."),
            kept=_number("The share of them that is answered, 0..1."),
            others=_or_null(_text("The folder of pictures of none of the classes; null where not measured.")),
            others_n=_or_null(_integer("The number of its pictures.")),
            refused=_or_null(_number("The share of them that is refused, 0..1.")),
        )
    ),
    reliability=_list("15 equal steps of confidence; a step without images has n = 0.", _BIN),
    seconds=_number("Duration in seconds."),
    images_per_second=_number("Images per second."),
)

# --- predict -------------------------------------------------------------------------------

_GUESS = _record(
    "One class and its probability.",
    label=_text("The name of the class."),
    probability=_number("Its probability, 0..1."),
)
_PREDICTION = _partial(
    "One line per image or frame. Only frames have frame and time_s.",
    ("frame", "time_s"),
    name=_text("The name of the image, video or camera."),
    label=_or_null(_text("The best class; null below the threshold of --unknown or --min-confidence.")),
    probability=_number("The probability of the best class, 0..1."),
    top=_list("The best classes, the most probable first.", _GUESS),
    calibrated=_flag("Whether the card has a fitted temperature."),
    frame=_integer("The number of the frame, from 0."),
    time_s=_number("The time of the frame in seconds: in the video, or since the camera was opened."),
)

# --- export, verify ------------------------------------------------------------------------

_WRITTEN = {
    "path": _text("The file that was written."),
    "format": _text("Its format.", "qnz", "onnx", "openvino"),
    "sha256": _text("The sha256 of the file."),
    "weights_sha256": _text("The sha256 of the network in it."),
    "size_bytes": _integer("The size of the file in bytes."),
    "runtimes": _list("What answered the test vectors correctly.", _text("The name of a runtime.")),
}
_COMPARED = _record(
    "The exported network and the run on one split.",
    split=_text("The split that was measured."),
    protocol=_text("How the data was split: standard or paper."),
    n=_integer("The number of images measured."),
    top1=_number("Accuracy of the file, 0..1."),
    parent_top1=_number("Accuracy of the run, 0..1."),
    lost_points=_number("How many percentage points of accuracy the file lost; negative where it is better."),
    different=_integer("The number of images to which the file gives another class than the run."),
)
_QNZ = _record(
    "One object for --format qnz.",
    **_WRITTEN,
    bits=_text("The width class of the integers.", "w7a8", "w7a7", "w6a7", "w5a8"),
    qat_epochs=_number("How many epochs of fine-tuning were asked for."),
    compared=_list("One entry for val, and one for test where there is one.", _COMPARED),
)
_ONNX = _record(
    "One object for --format onnx and openvino. The last four fields are null without --data.",
    **_WRITTEN,
    split=_or_null(_text("The split that was measured.")),
    n=_or_null(_integer("The number of images measured.")),
    top1=_or_null(_number("Accuracy of the file, 0..1.")),
    different=_or_null(
        _integer("The number of images with another class than by the run; with --int8, than by the integer network.")
    ),
)
_MEASURED = _record(
    "What the file reaches now; null without --data.",
    data=_text("The name of the data."),
    split=_text("The split that was measured."),
    protocol=_text("How the data was split: standard or paper."),
    runtime=_text("The runtime that classified the images."),
    n=_integer("The number of images measured."),
    top1=_number("Accuracy now, 0..1."),
    top1_recorded=_or_null(_number("Accuracy in the receipt; null where the receipt holds none.")),
    different=_or_null(_integer("The number of images with another class than recorded; null for a .qnz.")),
)
_VERIFICATION = _record(
    "One object.",
    file=_text("The file that was checked."),
    sha256=_text("The sha256 of the file."),
    weights_sha256=_text("The sha256 of the network in it."),
    checks=_list(
        "What was checked, in order.",
        _record(
            "One check.",
            name=_text("The name of the check."),
            ok=_flag("Whether it holds."),
            detail=_text("A sentence with the figures."),
        ),
    ),
    receipt_measured=_flag("Whether the file was measured on data when it was exported."),
    measured=_or_null(_MEASURED),
    holds=_flag("Whether every check holds."),
)

# --- compress ------------------------------------------------------------------------------

_CODED = _record(
    "One layer of the compressed file.",
    name=_text("The layer, by its place in the network."),
    weights=_integer("The number of its weights."),
    kept=_integer("How many of them are there."),
    bits=_number("Bits of a kept weight before coding."),
    index_bits=_number("Bits of a kept weight's place before coding."),
    coded_bits=_number("Bits of a kept weight, coded."),
    coded_index_bits=_number("Bits of a kept weight's place, coded."),
    bytes_coded=_integer("Bytes of the layer, coded, with its biases and multipliers."),
)
_SENSITIVE = _record(
    "How far the answers move when this layer alone is pruned and nothing is trained.",
    name=_text("The layer, by its place in the network."),
    weights=_integer("The number of its weights."),
    densities=_list("Shares of the weights that were kept.", _number("A share, 0..1.")),
    divergence=_list("Divergence from the usual answers at each of them.", _number("Nats an image.")),
    importance=_or_null(_number("What a unit of its scores costs; null where the layer stays dense.")),
)
_POINT = _record(
    "The end of an epoch.",
    epoch=_integer("The number of the epoch, from 1."),
    density=_number("Share of the pointwise weights that is kept, 0..1."),
    size_bytes=_integer("Bytes of the coded file, estimated."),
    speed=_number("Speed as a multiple of the dense network's, estimated."),
    val_accuracy=_number("Share of the validation images that were right, 0..1, before quantization."),
)
_PAPER_LAYER = _record(
    "One pointwise layer.",
    name=_text("The layer, by its place in the network."),
    weights=_integer("The number of its weights."),
    kept=_integer("How many of them are there."),
    fillers=_integer("Zeros that are stored since a gap exceeds the index."),
    values=_integer("The number of shared weights."),
    value_bits=_number("Bits of a value by a Huffman code."),
    index_bits=_number("Bits of a relative index by a Huffman code."),
    bytes_pruned=_integer("Bytes after pruning."),
    bytes_quantized=_integer("Bytes after quantization."),
    bytes_coded=_integer("Bytes after Huffman coding."),
)
_PAPER = _record(
    "Sizes after each of Deep Compression's own steps; null without --mode paper.",
    bytes_dense=_integer("Bytes of all weights in fp32."),
    bytes_pruned=_integer("Bytes after pruning."),
    bytes_quantized=_integer("Bytes after quantization."),
    bytes_coded=_integer("Bytes after Huffman coding."),
    layers=_list("Every pointwise layer.", _PAPER_LAYER),
)
_COMPRESSED = _record(
    "One object.",
    **_WRITTEN,
    bits=_text("The width class of the integers, such as w5a8."),
    pattern=_text("What is kept or absent together: block or element."),
    density=_number("Share of the pointwise weights that is kept, 0..1."),
    epochs=_integer("Epochs of pruning."),
    qat_epochs=_number("Epochs of fine-tuning the integers."),
    dense_bytes=_integer("Bytes of all weights in fp32."),
    speed=_number("Speed as a multiple of the dense network's, estimated."),
    compared=_list("One entry for val, and one for test where there is one.", _COMPARED),
    layers=_list("Every layer.", _CODED),
    sensitivity=_list("What pruning each layer alone does.", _SENSITIVE),
    points=_list("The way from the dense network to the file.", _POINT),
    paper=_or_null(_PAPER),
)

# --- benchmark -----------------------------------------------------------------------------

_SUBJECT = {
    "model": _text("The model as it was named."),
    "runtime": _text("The runtime that ran it."),
    "threads": _integer("The number of threads."),
}
_FACTS = {
    "model": _text("The model as it was named."),
    "name": _text("The name of the network."),
    "input": _text("Channels, height and width of the input, such as 3x32x32."),
    "parameters": _or_null(_integer("The number of parameters; null where the card does not tell.")),
    "macs": _or_null(_integer("Multiply-adds per image; null where the card does not tell.")),
    "size_bytes": _integer("The size of the file, or of a run folder's weights, in bytes."),
}
_PEAK = _record(
    "The speed of a large fp32 matrix product in the same run.",
    threads=_integer("The number of threads."),
    n=_integer("The number of repeats."),
    gmacs_median=_number("Billions of multiply-adds per second, median."),
    gmacs_best=_number("Billions of multiply-adds per second, best."),
    gmacs_per_core_second=_number("Billions of multiply-adds per second of CPU time."),
    library=_text("The library that computed it."),
)
_START = _record(
    "Cold starts of one model: from starting Python to the first label.",
    model=_SUBJECT["model"],
    runtime=_SUBJECT["runtime"],
    n=_integer("The number of starts."),
    median_s=_number("Median in seconds."),
    fastest_s=_number("The fastest start in seconds."),
    slowest_s=_number("The slowest start in seconds."),
)
_ROW = _record(
    "One case of one model in one runtime.",
    **_SUBJECT,
    cores=_or_null(_list("The cores it was pinned to; null where pinning is not possible.", _integer("A core."))),
    path=_text("network: image to logits. whole: JPEG bytes to label.", "network", "whole"),
    batch=_integer("Images at a time."),
    n=_integer("The number of calls timed."),
    median_ms=_number("Median time of a call in milliseconds."),
    p95_ms=_number("95% of the calls took at most so many milliseconds."),
    images_per_second=_number("Images per second, by the median."),
    ratio=_number("Images per second over those of the first model and runtime in the same case."),
    cpu_ms=_number("Mean CPU time of a call in milliseconds, all threads together."),
    cores_used=_number("CPU time per elapsed time."),
    memory_bytes=_integer("The largest resident memory of the process so far, in bytes."),
    gmacs_per_core_second=_or_null(_number("Billions of multiply-adds per second of CPU time; null for whole.")),
    peak_share=_or_null(_number("Share of the fp32 peak of one core, 0..1; null for whole.")),
)
_BENCHMARK = _record(
    "One object without --fps.",
    format=_FORMAT,
    settings=_any_object("What was measured: batches, threads, seconds, starts, runtimes, jpeg."),
    machine=_any_object("The machine: cpu, cores, flags, governor, load_1min and more."),
    versions=_map("Versions of what took part.", _text("A version.")),
    runtimes=_map("Each runtime and what it is.", _text("What it is.")),
    models=_list("One entry per model.", _record("One model.", **_FACTS)),
    jpegs=_map("For each model the size of the JPEG files on the whole path.", _text("Such as 640x480.")),
    peaks=_list("One entry per number of threads.", _PEAK),
    starts=_list("One entry per model and runtime.", _START),
    rows=_list("One entry per case, model and runtime.", _ROW),
)
_FRAMES = _record(
    "One model at one rate.",
    **_SUBJECT,
    jpeg=_text("The size of the frames, such as 640x480."),
    fps=_number("Frames per second that arrived."),
    holds=_flag("Whether the model holds this rate."),
    frames=_integer("The number of frames that arrived."),
    answered=_integer("How many were answered."),
    late=_integer("How many were answered after the next one had arrived."),
    dropped=_integer("How many were dropped."),
    median_ms=_number("Median time from arrival to answer in milliseconds."),
    p95_ms=_number("95% of the answers took at most so many milliseconds."),
    worst_ms=_number("The slowest answer in milliseconds."),
    cpu_share=_or_null(_number("The share of one core that was allowed; null without a limit.")),
    cpu_share_used=_or_null(_number("The share of one core that was used; null without a limit.")),
    quota=_text("How the limit was kept."),
)
_SMALLEST = _record(
    "The smallest share of one core that holds the rate.",
    **_SUBJECT,
    cpu_share=_or_null(_number("The share; null where a whole core does not hold the rate.")),
    trials=_list("Everything that was tried, in order.", _FRAMES),
)
_REALTIME = _partial(
    "One object with --fps. Only --cpu-share auto gives smallest.",
    ("smallest",),
    format=_FORMAT,
    machine=_any_object("The machine: cpu, cores, flags, governor, load_1min and more."),
    versions=_map("Versions of what took part.", _text("A version.")),
    holds=_flag("Whether all models hold the rate."),
    rows=_list("One entry per model and runtime.", _FRAMES),
    smallest=_list("One entry per model and runtime.", _SMALLEST),
)

# --- inspect, doctor -----------------------------------------------------------------------

_LAYER = _partial(
    "One layer. Only the layers of a .qnz have the fields from pool on.",
    ("pool", "sums", "shift", "top", "middle_top", "bits", "kept", "size_bytes"),
    name=_text("The name of the layer."),
    kind=_text("The kind of the layer."),
    kernel=_integer("The side of the kernel."),
    in_channels=_integer("Input channels."),
    out_channels=_integer("Output channels."),
    side=_integer("The side of the output in pixels."),
    parameters=_integer("The number of parameters."),
    macs=_integer("Multiply-adds per image."),
    activation_bytes=_integer("The size of the map that it leaves, in bytes; 0 for a classifier."),
    pool=_flag("Whether a max pooling follows."),
    sums=_or_null(_integer("N of FORMAT.md: pairs of products that are added in 16 bits.")),
    shift=_or_null(_integer("The shift before the multiplier.")),
    top=_or_null(_integer("The largest value of the output.")),
    middle_top=_or_null(_integer("The largest value of the depthwise output.")),
    bits=_integer("The bits of the largest weight with its sign."),
    kept=_or_null(_number("The share of the pointwise part's blocks of four weights that are not all zero.")),
    size_bytes=_integer("The size of its numbers in bytes."),
)
_SECTION = _record(
    "One section of the file.",
    kind=_text("The kind of the section."),
    offset=_integer("Where it begins, in bytes."),
    size_bytes=_integer("Its size in bytes."),
    sha256=_text("Its sha256."),
)
_CODING = _record(
    "How the numbers of a coded .qnz are coded; null for other models.",
    name=_text("The coding.", "huffman", "contexts"),
    tables_bytes=_integer("Bytes of prefix codes."),
    places_bytes=_integer("Bytes that say which blocks of weights are kept."),
    values_bytes=_integer("Bytes of the weights in kept blocks."),
    others_bytes=_integer("Bytes of all other numbers."),
)
_RECEIPT = _record(
    "What the file was measured on when it was exported; null where it was not measured.",
    data=_text("The name of the data."),
    split=_text("The split that was measured."),
    protocol=_text("How the data was split: standard or paper."),
    n=_integer("The number of images measured."),
    correct=_integer("How many were right."),
)
_INSPECTION = _record(
    "One object.",
    format=_FORMAT,
    **_FACTS,
    layers=_list("The layers in order; empty where neither the card nor the network tells.", _LAYER),
    sections=_list("The sections of a .qnz in order; empty for other models.", _SECTION),
    receipt=_or_null(_RECEIPT),
    coding=_or_null(_CODING),
    intact=_flag("Whether the weights have the sha256 that the card names."),
    files=_map("Each file of the model and its size in bytes.", _integer("Bytes.")),
    card=_any_object("The whole card; docs/files.md describes it."),
)
_FINDING = _record(
    "One finding.",
    kind=_text("The kind of the finding, such as unreadable, duplicate, leak, conflict or imbalance."),
    severity=_text("How bad it is. A note is not a fault.", "error", "warning", "note"),
    message=_text("A sentence that says what was found."),
    groups=_list("The images; those that belong together are in one group.", _list("One group.", _text("An image."))),
)
_EXAMINATION = _record(
    "One object.",
    format=_FORMAT,
    data=_text("The data as it was named."),
    found=_flag("Whether there is an error or a warning."),
    findings=_list("Everything that was found, the worst first.", _FINDING),
)

_PAGE = _record(
    "One object.",
    format=_FORMAT,
    path=_text("The page's path."),
    size_bytes=_integer("The size of the page in bytes."),
    beside_model_bytes=_integer("The bytes of the page that are not the model in base64."),
    sha256=_text("The sha256 of the page."),
    min_confidence=_number("The probability below which the page answers unknown."),
)

SCHEMAS: dict[str, Schema] = {
    "train": _verb("train", _EPOCH, _RESULT),
    "evaluate": _verb("evaluate", _EVALUATION),
    "predict": _verb("predict", _PREDICTION),
    "export": _verb("export", _QNZ, _ONNX),
    "compress": _verb("compress", _COMPRESSED),
    "page": _verb("page", _PAGE),
    "verify": _verb("verify", _VERIFICATION),
    "benchmark": _verb("benchmark", _BENCHMARK, _REALTIME),
    "inspect": _verb("inspect", _INSPECTION),
    "doctor": _verb("doctor", _EXAMINATION),
}
