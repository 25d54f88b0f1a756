"""`python -m client.score FILE [CANDIDATE]`: scores saved answers against their true boxes.

With two files it also compares the second with the first, image by image: is the candidate as accurate as the baseline?
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import msgspec
from tabulate import tabulate

from client import answerfile
from client.answerfile import Columns, read_answers
from client.core.findings import Estimate, Parity, Quality
from client.core.plan import BoxFrame
from client.core.quality import Answer, decide_frame, parity, target_quality
from client.core.resample import Resampling
from client.errors import HalfweightError, UsageError
from client.reports.accuracy import SCORES
from client.reports.terminal import plain

EXAMPLES = """\
examples:
  python -m client.score answers.csv --truth-order yxyx
      one model's answers; true boxes as in the Open Food Facts data set, [y_min, x_min, y_max, x_max]
  python -m client.score bf16.jsonl fp8.jsonl --box-frame grid1000 --iou-margin 0.02
      is fp8 as accurate as bf16, to within 0.02 of mean IoU?
  python -m client.score answers.jsonl --truth-frame pixels --json
      true boxes in pixels (needs columns width and height); all figures as JSON
"""
SCHEMA_VERSION = 1
WIDTH = 100
_JUDGED = 2000
_DOUBT = 0.2


class Scored(msgspec.Struct, frozen=True):
    file: str
    quality: Quality


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints. `parity` compares the second file with the first; None for one file."""

    schema_version: int = SCHEMA_VERSION
    confidence: float
    frame: BoxFrame
    disagreeing: int
    """Answers that write a box which does not fit the frame."""
    warnings: tuple[str, ...] = ()
    files: tuple[Scored, ...]
    parity: Parity | None = None


def score(paths: Sequence[Path], columns: Columns, options: argparse.Namespace) -> tuple[Report, list[list[Answer]]]:
    """Reads the files and scores them in one frame. Raises UsageError."""
    sets = [read_answers(path, columns) for path in paths]
    every = [answer for answers in sets for answer in answers]
    frame = BoxFrame(options.box_frame)
    unsized = sum(answer.width < 1 or answer.height < 1 for answer in every)
    if frame in (BoxFrame.PIXELS, BoxFrame.RESIZED_PIXELS) and unsized:
        raise UsageError(
            f"--box-frame {frame} needs the size of each picture, and {unsized} of {len(every)} rows do not give it.",
            "Add columns width and height: the picture as the model got it.",
        )
    decision = decide_frame(every, frame)
    how = Resampling(options.confidence, options.seed, options.resamples)
    warnings = [decision.note, _order_doubt(every, decision.frame, columns.order)]
    report = Report(
        confidence=options.confidence,
        frame=decision.frame,
        disagreeing=decision.disagreeing,
        warnings=tuple(note for note in warnings if note),
        files=tuple(
            Scored(plain(str(path)), target_quality(answers, decision.frame, **how._asdict()))
            for path, answers in zip(paths, sets, strict=True)
        ),
        parity=parity(sets[0], sets[1], decision.frame, margin=options.iou_margin, **how._asdict())
        if len(sets) == 2
        else None,
    )
    return report, sets


def _order_doubt(answers: Sequence[Answer], frame: BoxFrame, order: str) -> str | None:
    """A warning when the same answers would score far better with x and y of the true boxes swapped."""
    known = [answer for answer in answers if answer.truth][:_JUDGED]
    turned = [
        msgspec.structs.replace(answer, truth=tuple((b[1], b[0], b[3], b[2]) for b in answer.truth or ()))
        for answer in known
    ]
    as_told, as_turned = (
        target_quality(given, frame, resamples=2).scores["mean_iou"].value for given in (known, turned)
    )
    if as_told is None or as_turned is None or as_turned < as_told + _DOUBT:
        return None
    other = next(name for name in answerfile.ORDERS if name != order)
    return f"WARNING: mean IoU is {as_told:.3f}, but {as_turned:.3f} with --truth-order {other}: is --truth-order {order} right?"


def render(report: Report, sets: Sequence[Sequence[Answer]], shown: int) -> str:
    parts = [_table(report)]
    parts.extend(_wrap(note) for note in report.warnings)
    for scored in report.files:
        name = f"{Path(scored.file).name}: " if len(report.files) > 1 else ""
        parts.extend(_wrap(name + note) for note in scored.quality.notes)
    for scored, answers in zip(report.files, sets, strict=True):
        parts.extend(_unreadable(answers, report.frame, shown, Path(scored.file).name))
    if report.parity is not None:
        parts.append(_wrap(f"=> {report.parity.word}: {report.parity.sentence}", "   "))
        parts.extend(_wrap(f"   · {note}", "     ") for note in report.parity.notes)
    return "\n".join(parts)


def _wrap(text: str, after: str = "  ") -> str:
    first = text[: len(text) - len(text.lstrip(" "))]
    return textwrap.fill(
        plain(text).strip(), WIDTH, initial_indent=first, subsequent_indent=after, break_on_hyphens=False
    )


def _table(report: Report) -> str:
    qualities = [scored.quality for scored in report.files]
    rows = [
        ["answers scored", *(f"{quality.answers}" for quality in qualities)],
        ["true boxes", *(f"{quality.truths}" for quality in qualities)],
        *([label, *(_cell(quality.scores[name]) for quality in qualities)] for name, label in SCORES.items()),
    ]
    heads = ["", *(Path(scored.file).name for scored in report.files)]
    table = tabulate(rows, headers=heads, disable_numparse=True, colalign=("left", *["right"] * len(qualities)))
    images = max(quality.scores["mean_iou"].n for quality in qualities)
    return f"{table}\n[…] {report.confidence * 100:g} % interval over {images} images · boxes read as {report.frame}\n"


def _cell(item: Estimate) -> str:
    if item.value is None or item.low is None or item.high is None:
        return item.note or "not measured"
    return f"{item.value:.6f} [{item.low:.3f}, {item.high:.3f}]"


def _unreadable(answers: Sequence[Answer], frame: BoxFrame, shown: int, name: str) -> list[str]:
    bad = [answer for answer in answers if answer.truth is not None and not answer.boxes(frame)]
    lines = []
    for answer in bad[:shown]:
        text = "(no answer)" if answer.text is None else plain(answer.text[:200]).strip() or "(blank)"
        lines.append(f"  unreadable: {plain(name)}, image {plain(answer.image_id)[:40]}: {textwrap.shorten(text, 60)}")
    if lines and len(bad) > shown:
        lines.append(f"  … and {len(bad) - shown} more (--show-unreadable {len(bad)})")
    return lines


def _confidence(text: str) -> float:
    value = float(text)
    if not 0.5 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.5 and 1")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _resamples(text: str) -> int:
    value = int(text)
    if not 200 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 200 and 1,000,000")
    return value


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m client.score",
        description=f"{__doc__}\n{(answerfile.__doc__ or '').partition(chr(10))[2].strip()}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="answers, .csv or .jsonl; the baseline when there are two")
    add("candidate", type=Path, nargs="?", metavar="CANDIDATE", help="answers of another model to the same images")
    frames = [str(frame) for frame in BoxFrame]
    add(
        "--box-frame",
        choices=frames,
        default="auto",
        help="coordinates of the answers (default: auto, over the whole run)",
    )
    add("--truth-order", choices=list(answerfile.ORDERS), default="xyxy", help="order of a true box (default: xyxy)")
    add(
        "--truth-frame",
        choices=frames[:-1],
        default="unit",
        help="coordinates of the true boxes (default: unit, 0 to 1)",
    )
    add("--prediction-column", default="prediction", metavar="NAME", help="column of the answer (default: prediction)")
    add("--truth-column", default="gt_boxes", metavar="NAME", help="column of the true boxes (default: gt_boxes)")
    add(
        "--iou-margin",
        type=_above_zero,
        default=0.01,
        metavar="IOU",
        help="largest loss of mean IoU that does not matter (0.01)",
    )
    add("--confidence", type=_confidence, default=0.95, metavar="SHARE", help="of the intervals (default: 0.95)")
    add(
        "--resamples",
        type=_resamples,
        default=2000,
        metavar="N",
        help="bootstrap draws behind an interval (default: 2000)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap: the same seed gives the same intervals")
    add("--show-unreadable", type=int, default=3, metavar="N", help="print the first N unreadable answers (default: 3)")
    add("--json", action="store_true", help="print all figures as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    columns = Columns(
        options.prediction_column, options.truth_column, options.truth_order, BoxFrame(options.truth_frame)
    )
    paths = [options.file] if options.candidate is None else [options.file, options.candidate]
    try:
        report, sets = score(paths, columns, options)
    except HalfweightError as error:
        print(f"halfweight: {plain(str(error))}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=1).decode())
    else:
        print(render(report, sets, max(0, options.show_unreadable)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
