"""`quicknet predict`: images, videos and cameras in, classes with probabilities out, a line each."""

from __future__ import annotations

import io
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from quicknet.cli.opened import note_runtime, runtime_options
from quicknet.cli.text import shown
from quicknet.cli.verb import Argument, Verb, json_options
from quicknet.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from quicknet.inference.classifier import Classifier
    from quicknet.inference.predict import Prediction, PredictSettings, Unreadable
    from quicknet.inference.video import FrameCounts


_NOTES = """
The output is one line per image or frame. Tabs separate the fields:

\b
  name, the answer and its probability, the next best classes
  name, unknown, the best classes           (with --unknown or --min-confidence)
  name, frame and time in seconds, ...      (frames of a video)

Every frame of a video file is classified, or --fps frames per second of it. From a camera, and with
--realtime, always the newest frame is classified. The frames that arrive in the meantime are
dropped and counted. Cameras and --watch run until Ctrl-C or --for SECONDS.

Files that cannot be read are named on standard error, and all others are still classified. After a
video, a camera or --watch, the number of frames and their rate follow on standard error.
"""


@click.command(
    cls=Verb,
    short_help="Classify images and videos.",
    help="Classify images, videos, and the pictures of a camera or a watched folder.",
    examples=("quicknet predict photos.qnz camera/", "quicknet predict quicknet_s.cifar10 --watch incoming/"),
    notes=_NOTES,
    exit_codes={
        0: "Everything was classified.",
        2: "A file could not be read, or the model or an option is not usable.",
        130: "The command was interrupted, which is how a camera and --watch end.",
    },
)
@click.argument("model", cls=Argument, help="A run folder, an exported file, or the name of shipped weights.")
@click.argument(
    "files",
    cls=Argument,
    nargs=-1,
    help="Image files, folders of images, addresses of images (https://.../a.jpg), or - to read names from "
    "standard input. With the extra [video] also "
    "videos (.mp4, .mkv, .avi, ...), camera devices (/dev/video0) and camera addresses (rtsp://...).",
)
@click.option(
    "--top", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Print N classes per image."
)
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="P",
    help='Answer "unknown" where the best class has a probability below P.',
)
@click.option(
    "--unknown",
    is_flag=True,
    help='Answer "unknown" below the probability that was chosen on val, where 95% of pictures are still answered.',
)
@json_options("Print one JSON object per line and image.")
@click.option("-0", "nul", is_flag=True, help="Names on standard input end with NUL, as from find -print0.")
@click.option(
    "--batch",
    type=click.IntRange(1, 4096),
    default=32,
    show_default=True,
    metavar="N",
    help="Classify N images at a time.",
)
@runtime_options
@click.option("--watch", metavar="FOLDER", help="Classify every picture that appears or changes in FOLDER.")
@click.option("--fps", type=float, metavar="N", help="Classify N frames per second of a video.  [default: all]")
@click.option("--realtime", is_flag=True, help="Play video files at their own speed and drop late frames.")
@click.option("--for", "seconds", type=float, metavar="SECONDS", help="End a video, a camera or --watch after SECONDS.")
@click.option("--quiet", is_flag=True, help="Print no notes; files that cannot be read are still named.")
def predict(model: str, files: tuple[str, ...], **options: Any) -> int:
    """Carry out `quicknet predict`; returns the exit code."""
    from quicknet.inference.artifact import load
    from quicknet.inference.predict import PredictSettings

    if not files and options["watch"] is None:
        raise ConfigError("nothing to classify; give FILES to classify, a folder, or --watch FOLDER")
    if files and options["watch"] is not None:
        raise ConfigError("give FILES to classify or --watch FOLDER: one of the two")
    if options["unknown"] and options["min_confidence"]:
        raise ConfigError("--unknown takes the threshold from the model; leave it or --min-confidence out")
    classifier = load(model, options["runtime"], options["threads"], options["quiet"])
    threshold = _threshold(classifier, model) if options["unknown"] else options["min_confidence"]
    settings = PredictSettings(top=options["top"], min_confidence=threshold, batch=options["batch"])
    if not options["quiet"]:
        note_runtime(classifier, options["runtime"])
        _note_calibration(classifier, model)
    printer = _Printer(options["as_json"], options["quiet"])
    if options["watch"] is not None:
        return _watch(classifier, settings, options, printer)
    for videos, names in itertools.groupby(_names(files, b"\0" if options["nul"] else b"\n"), _is_video):
        if not videos:
            _pictures(classifier, names, settings, printer)
        elif not all(_video(classifier, name, settings, options, printer) for name in names if name):
            return 130
    return 2 if printer.failed else 0


def _threshold(classifier: Classifier, model: str) -> float:
    """Return the probability below which the model's card calls a picture unknown. Raises ConfigError."""
    if classifier.card.unknown is None:
        raise ConfigError(
            f"{model} holds no threshold for --unknown; choose one (quicknet evaluate RUN --calibrate, then export "
            "again), or give a probability with --min-confidence"
        )
    return classifier.card.unknown.min_confidence


def _note_calibration(classifier: Classifier, model: str) -> None:
    if classifier.card.temperature is not None:
        return
    mend = f"`quicknet evaluate {model} DATA --calibrate` does that"
    if classifier.source.is_file():
        mend = "calibrate the run folder it came from (`quicknet evaluate RUN --calibrate`), then export again"
    click.echo(f"quicknet: note: probabilities are not calibrated; {mend}", err=True)


class _Printer:
    """Prints answers as they come, and remembers whether something could not be read."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self._as_json, self._quiet = as_json, quiet
        self.failed = False

    def answer(self, answer: Prediction) -> None:
        """Print one answer."""
        click.echo((_json_line(answer) if self._as_json else _text_line(answer)).encode())

    def unreadable(self, name: str, error: str) -> None:
        """Name what could not be read, on standard error; with --json its object takes the answer's place too."""
        self.failed = True
        if self._as_json:
            click.echo(json.dumps({"name": name, "error": error}).encode())
        click.echo(f"quicknet: unreadable: {shown(error)}".encode(), err=True)

    def note(self, text: str) -> None:
        """Print a note on standard error."""
        if not self._quiet:
            click.echo(f"quicknet: note: {shown(text)}".encode(), err=True)


# --- pictures ------------------------------------------------------------------------------


def _names(files: tuple[str, ...], separator: bytes) -> Iterator[str | None]:
    """Yield every name in the arguments and, for a `-`, on standard input; None while that keeps us waiting."""
    from quicknet.inference.predict import read_names

    for given in files:
        if given != "-":
            yield given
        elif sys.stdin is None:
            raise DataError("standard input is closed; give names on it, or as arguments")
        else:
            yield from read_names(sys.stdin.fileno(), separator)


def _pictures(
    classifier: Classifier, names: Iterable[str | None], settings: PredictSettings, printer: _Printer
) -> None:
    from quicknet.inference.predict import Unreadable
    from quicknet.inference.predict import predict as answers

    for answer in answers(classifier, _images(names, printer.note), settings):
        if isinstance(answer, Unreadable):
            printer.unreadable(answer.name, answer.error)
        else:
            printer.answer(answer)


def _images(names: Iterable[str | None], note: Callable[[str], None]) -> Iterator[str | io.BytesIO | Unreadable | None]:
    """Yield every picture of the names: files, what folders hold, what addresses send. None is passed on."""
    from quicknet.inference.address import fetch_picture, is_picture_address
    from quicknet.inference.predict import Unreadable, find_images

    for name in names:
        if name is None:
            yield None
        elif is_picture_address(name):
            yield None  # the pictures so far should not wait for the network
            try:
                yield fetch_picture(name)
            except DataError as error:
                yield Unreadable(name=name, error=str(error))
        else:
            yield from find_images(name, note)


def _watch(classifier: Classifier, settings: PredictSettings, options: dict[str, Any], printer: _Printer) -> int:
    """Classify what appears in the folder until Ctrl-C or the end of the time; return the exit code."""
    from quicknet.inference.predict import Unreadable
    from quicknet.inference.watch import watch

    classified, started = 0, time.perf_counter()
    try:
        for answer in watch(classifier, options["watch"], settings, options["seconds"]):
            if isinstance(answer, Unreadable):
                printer.unreadable(answer.name, answer.error)
            else:
                printer.answer(answer)
                classified += 1
    except KeyboardInterrupt:  # the usual end
        return 130
    finally:
        seconds = time.perf_counter() - started
        rate = f"{classified} pictures classified in {seconds:.1f} s, {classified / seconds:.2f} pictures/s"
        printer.note(f"{options['watch']}: {rate}")
    return 2 if printer.failed else 0


# --- videos and cameras --------------------------------------------------------------------


def _is_video(name: str | None) -> bool:
    from quicknet.inference.names import is_video

    return name is not None and is_video(name)


def _video(
    classifier: Classifier, name: str, settings: PredictSettings, options: dict[str, Any], printer: _Printer
) -> bool:
    """Classify a video's or camera's frames, then print how many and how fast; return False after Ctrl-C."""
    from quicknet.inference.video import FrameCounts, VideoSettings, classify_video

    video = VideoSettings(fps=options["fps"], realtime=options["realtime"], seconds=options["seconds"])
    counts = FrameCounts()
    try:
        for answer in classify_video(classifier, name, settings, video, counts):
            printer.answer(answer)
    except DataError as error:
        printer.unreadable(name, str(error))
    except KeyboardInterrupt:  # the usual end of a camera
        return False
    finally:
        if counts.arrived:
            printer.note(_rate(name, counts))
    return True


def _rate(name: str, counts: FrameCounts) -> str:
    others = f"{counts.dropped} dropped"
    for n, what in ((counts.skipped, "skipped by --fps"), (counts.damaged, "damaged")):
        others += f", {n} {what}" if n else ""
    rate = f"{counts.classified} of {counts.arrived} frames classified in {counts.seconds:.1f} s"
    return f"{name}: {rate}, {counts.frames_per_second:.1f} frames/s, {others}"


# --- lines ---------------------------------------------------------------------------------


def _text_line(answer: Prediction) -> str:
    guesses = [f"{shown(guess.label)} {100 * guess.probability:.1f}%" for guess in answer.top]
    fields = answer.to_dict()
    place = [f"frame {fields['frame']}", f"{fields['time_s']:.3f} s"] if "frame" in fields else []
    return "\t".join([shown(answer.name), *place, *(["unknown"] if answer.label is None else []), *guesses])


def _json_line(answer: Prediction) -> str:
    fields = answer.to_dict()
    fields["probability"] = round(answer.probability, 6)
    fields["top"] = [{"label": g.label, "probability": round(g.probability, 6)} for g in answer.top]
    if "time_s" in fields:
        fields["time_s"] = round(fields["time_s"], 6)
    return json.dumps(fields)
