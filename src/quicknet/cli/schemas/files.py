"""What `export`, `page`, `verify` and `compress` print."""

from __future__ import annotations

from quicknet.cli.schemas.parts import FORMAT, flag, integer, listing, number, or_null, record, text

# --- export, verify ------------------------------------------------------------------------

_WRITTEN = {
    "path": text("The file that was written."),
    "format": text("Its format.", "qnz", "onnx", "openvino"),
    "sha256": text("The sha256 of the file."),
    "weights_sha256": text("The sha256 of the network in it."),
    "size_bytes": integer("The size of the file in bytes."),
    "runtimes": listing("What answered the test vectors correctly.", text("The name of a runtime.")),
}
_COMPARED = record(
    "The exported network and the run on one split.",
    split=text("The split that was measured."),
    protocol=text("How the data was split: standard or paper."),
    n=integer("The number of images measured."),
    top1=number("Accuracy of the file, 0..1."),
    parent_top1=number("Accuracy of the run, 0..1."),
    lost_points=number("How many percentage points of accuracy the file lost; negative where it is better."),
    different=integer("The number of images to which the file gives another class than the run."),
)
QNZ = record(
    "One object for --format qnz.",
    **_WRITTEN,
    bits=text("The width class of the integers.", "w7a8", "w7a7", "w6a7", "w5a8"),
    qat_epochs=number("How many epochs of fine-tuning were asked for."),
    compared=listing("One entry for val, and one for test where there is one.", _COMPARED),
)
ONNX = record(
    "One object for --format onnx and openvino. The last four fields are null without --data.",
    **_WRITTEN,
    split=or_null(text("The split that was measured.")),
    n=or_null(integer("The number of images measured.")),
    top1=or_null(number("Accuracy of the file, 0..1.")),
    different=or_null(
        integer("The number of images with another class than by the run; with --int8, than by the integer network.")
    ),
)
_MEASURED = record(
    "What the file reaches now; null without --data.",
    data=text("The name of the data."),
    split=text("The split that was measured."),
    protocol=text("How the data was split: standard or paper."),
    runtime=text("The runtime that classified the images."),
    n=integer("The number of images measured."),
    top1=number("Accuracy now, 0..1."),
    top1_recorded=or_null(number("Accuracy in the receipt; null where the receipt holds none.")),
    different=or_null(integer("The number of images with another class than recorded; null for a .qnz.")),
)
VERIFICATION = record(
    "One object.",
    file=text("The file that was checked."),
    sha256=text("The sha256 of the file."),
    weights_sha256=text("The sha256 of the network in it."),
    checks=listing(
        "What was checked, in order.",
        record(
            "One check.",
            name=text("The name of the check."),
            ok=flag("Whether it holds."),
            detail=text("A sentence with the figures."),
        ),
    ),
    receipt_measured=flag("Whether the file was measured on data when it was exported."),
    measured=or_null(_MEASURED),
    holds=flag("Whether every check holds."),
)

# --- compress ------------------------------------------------------------------------------

_CODED = record(
    "One layer of the compressed file.",
    name=text("The layer, by its place in the network."),
    weights=integer("The number of its weights in the run."),
    kept=integer("How many of them are there."),
    bits=number("Bits of a kept weight before coding."),
    index_bits=number("Bits of a kept weight's place before coding."),
    coded_bits=number("Bits of a kept weight as the file's coder writes it, the mean of the layer."),
    coded_index_bits=number("Bits of a kept weight's place as the file's coder writes it."),
    bytes_coded=integer("Bytes of the layer in the file, with its biases and multipliers."),
    time_share=or_null(number("Share of the time of an image, 0..1, measured here; null without an engine.")),
)
_SENSITIVE = record(
    "How far the answers move when this layer alone is pruned and nothing is trained.",
    name=text("The layer, by its place in the network."),
    weights=integer("The number of its weights."),
    densities=listing("Shares of the weights that were kept.", number("A share, 0..1.")),
    divergence=listing("Divergence from the usual answers at each of them.", number("Nats an image.")),
    importance=or_null(number("What a unit of its scores costs; null where the layer stays dense.")),
)
_POINT = record(
    "The end of an epoch, or integers that were tried without training.",
    epoch=integer("The number of the epoch, from 1; 0 without training."),
    density=number("Share of the pointwise weights that is kept, 0..1."),
    size_bytes=integer("Bytes of the coded file, estimated."),
    speed=or_null(number("Speed as a multiple of the dense network's, of that shape; null without an engine.")),
    val_accuracy=number(
        "Share of the validation images that were right, 0..1: in floating point, without training by the integers."
    ),
    step=or_null(number("The step of the integers that were tried without training; else null.")),
)
_PAPER_LAYER = record(
    "One pointwise layer.",
    name=text("The layer, by its place in the network."),
    weights=integer("The number of its weights."),
    kept=integer("How many of them are there."),
    fillers=integer("Zeros that are stored since a gap exceeds the index."),
    values=integer("The number of shared weights."),
    value_bits=number("Bits of a value by a Huffman code."),
    index_bits=number("Bits of a relative index by a Huffman code."),
    bytes_pruned=integer("Bytes after pruning."),
    bytes_quantized=integer("Bytes after quantization."),
    bytes_coded=integer("Bytes after Huffman coding."),
)
_PAPER = record(
    "Sizes after each of Deep Compression's own steps; null without --mode paper.",
    bytes_dense=integer("Bytes of all weights in fp32."),
    bytes_pruned=integer("Bytes after pruning."),
    bytes_quantized=integer("Bytes after quantization."),
    bytes_coded=integer("Bytes after Huffman coding."),
    layers=listing("Every pointwise layer.", _PAPER_LAYER),
)
COMPRESSED = record(
    "One object.",
    **_WRITTEN,
    bits=text("The width class of the integers, such as w5a8."),
    pattern=text("What is kept or absent together: block, element or channel."),
    density=number("Share of the pointwise weights that is kept, 0..1."),
    epochs=integer("Epochs of pruning; 0 without training."),
    qat_epochs=number("Epochs of fine-tuning the integers."),
    dense_bytes=integer("Bytes of all weights in fp32."),
    contexts_bytes=integer("Bytes of all numbers, coded by contexts."),
    huffman_bytes=integer("Bytes of all numbers, coded by Huffman's code."),
    entropy_bytes=integer("The entropy of order 0 of each layer's numbers, in bytes; it counts no tables."),
    speed=or_null(number("Speed as a multiple of the dense network's, measured here; null without an engine.")),
    compared=listing("One entry for val, and one for test where there is one.", _COMPARED),
    layers=listing("Every layer.", _CODED),
    sensitivity=listing("What pruning each layer alone does.", _SENSITIVE),
    points=listing("The way from the dense network to the file.", _POINT),
    paper=or_null(_PAPER),
)


# --- page ----------------------------------------------------------------------------------

PAGE = record(
    "One object.",
    format=FORMAT,
    path=text("The page's path."),
    size_bytes=integer("The size of the page in bytes."),
    beside_model_bytes=integer("The bytes of the page that are not the model in base64."),
    sha256=text("The sha256 of the page."),
    min_confidence=number("The probability below which the page answers unknown."),
)
