"""What `train`, `evaluate` and `predict` print."""

from __future__ import annotations

from quicknet.cli.schemas.parts import BALANCED, ENERGY, flag, integer, listing, number, or_null, partial, record, text

# --- train ---------------------------------------------------------------------------------

EPOCH = record(
    "One line after each epoch, as in log.jsonl.",
    event={"const": "epoch", "type": "string", "description": "The kind of the line."},
    epoch=integer("The number of the epoch, from 1."),
    train_loss=number("Mean training loss in nats."),
    train_accuracy=number("Share of the training images that were right, 0..1."),
    val_loss=or_null(number("Mean validation loss in nats; null where the epoch was not validated.")),
    val_accuracy=or_null(number("Share of the validation images that were right, 0..1; null as above.")),
    val_balanced_accuracy=or_null(
        number("Mean over the classes of the share of each that was right, 0..1; null as above.")
    ),
    best=flag("Whether this is the best epoch so far."),
    learning_rate=number("The learning rate at the end of the epoch."),
    image_size=integer("The side of the training images in pixels."),
    images_per_second=number("Training images per second."),
    seconds=number("Duration of the epoch in seconds."),
    energy_joules=ENERGY,
)
RESULT = record(
    "The last line: what the best epoch reaches.",
    event={"const": "result", "type": "string", "description": "The kind of the line."},
    run=text("The run folder."),
    split=text("The split that was measured: test, or val where there is no test."),
    n=integer("The number of images measured."),
    top1=number("Accuracy, 0..1."),
    top1_low=number("Lower end of its 95% interval."),
    top1_high=number("Upper end of its 95% interval."),
    **BALANCED,
    protocol=text("How the data was split: standard or paper."),
    best_epoch=integer("The epoch whose weights were kept."),
    seconds=number("Duration of the training in seconds."),
    energy_joules=ENERGY,
)

# --- evaluate ------------------------------------------------------------------------------

_CLASS = record(
    "One class.",
    name=text("The name of the class."),
    n=integer("The number of its images."),
    correct=integer("How many of them were right."),
    precision=or_null(number("Share of the answers with this class that were right; null without answers.")),
    recall=or_null(number("Share of the images of this class that were right; null without images.")),
)
_BIN = record(
    "One step of confidence.",
    n=integer("The number of images in it."),
    confidence=number("Their mean confidence, 0..1."),
    accuracy=number("The share of them that were right, 0..1."),
)
EVALUATION = record(
    "One object.",
    model=text("The model that was measured."),
    file_sha256=text("The sha256 of its weights."),
    data=text("The name of the data."),
    split=text("The split that was measured."),
    protocol=text("How the data was split: standard or paper."),
    n=integer("The number of images measured."),
    top1=number("Accuracy, 0..1."),
    top1_low=number("Lower end of its 95% interval."),
    top1_high=number("Upper end of its 95% interval."),
    top5=or_null(number("Share of images whose class is among the best five; null with fewer than 6 classes.")),
    **BALANCED,
    classes=listing("One entry per class, in the order of the card.", _CLASS),
    confusion=listing(
        "Counts of images: one row per true class, one column per predicted class.",
        listing("One true class.", integer("The number of images.")),
    ),
    temperature=or_null(number("The temperature in the card; null where none was fitted.")),
    nll=number("Negative log-likelihood in nats at temperature 1."),
    ece=number("Expected calibration error at temperature 1, 0..1."),
    nll_calibrated=or_null(number("Negative log-likelihood at the card's temperature; null without one.")),
    ece_calibrated=or_null(number("Expected calibration error at the card's temperature; null without one.")),
    unknown=or_null(
        record(
            "From which probability on an answer is believed; null where the card has no threshold.",
            min_confidence=number("The threshold of predict --unknown, 0..1."),
            none_class=flag("Whether none of the classes counts as one more class, with the logit 0."),
            split=text("The split it was chosen on."),
            n=integer("The number of images of that split."),
            kept=number("The share of them that is answered, 0..1."),
            others=or_null(text("The folder of pictures of none of the classes; null where not measured.")),
            others_n=or_null(integer("The number of its pictures.")),
            refused=or_null(number("The share of them that is refused, 0..1.")),
        )
    ),
    reliability=listing("15 equal steps of confidence; a step without images has n = 0.", _BIN),
    seconds=number("Duration in seconds."),
    images_per_second=number("Images per second."),
)

# --- predict -------------------------------------------------------------------------------

_GUESS = record(
    "One class and its probability.",
    label=text("The name of the class."),
    probability=number("Its probability, 0..1."),
)
UNREADABLE = record(
    "In place of the answer: an image, video or camera that could not be read. The exit code is then 2.",
    name=text("The name of the image, video or camera."),
    error=text("What is wrong, and what to do."),
)
PREDICTION = partial(
    "One line per image or frame. Only frames have frame and time_s.",
    ("frame", "time_s"),
    name=text("The name of the image, video or camera."),
    label=or_null(text("The best class; null below the threshold of --unknown or --min-confidence.")),
    probability=number("The probability of the best class, 0..1."),
    top=listing("The best classes, the most probable first.", _GUESS),
    calibrated=flag("Whether the card has a fitted temperature."),
    frame=integer("The number of the frame, from 0."),
    time_s=number("The time of the frame in seconds: in the video, or since the camera was opened."),
)
