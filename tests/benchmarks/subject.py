"""What the benchmarks on a network and its data share: their options, and the files opened."""

# ruff: noqa: T201
from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxlr import model_io
from onnxlr.calibration import ImageOptions
from onnxlr.errors import OnnxlrError
from onnxlr.opening import calibration_data, data_options, evaluation_data, is_folder, shapes_of, target_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from onnxlr.calibration import Source
    from onnxlr.evaluation import EvaluationData
    from onnxlr.model_io import Model
    from onnxlr.target import Target

SAMPLE = Path(__file__).parents[2] / "samples" / "charnet"
PRESETS = {"imagenet": ImageOptions.imagenet, "caffe": ImageOptions.caffe, "unit": ImageOptions}


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """The files, and where models are to run; ``images`` is how image files become inputs, if there are any."""

    model: Model
    source: Source
    test: EvaluationData
    target: Target
    images: ImageOptions | None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the network and its data, by default the sample network's."""
    parser.add_argument("--model", type=Path, default=SAMPLE / "charnet.onnx", help="ONNX file")
    parser.add_argument("--data", type=Path, default=SAMPLE / "calibration.npz", help="unlabelled calibration data")
    parser.add_argument("--test", type=Path, default=SAMPLE / "test.npz", help=".npz with labels, or class folders")
    parser.add_argument("--image-preset", choices=PRESETS, default="unit", help="how image files become inputs")
    parser.add_argument("--samples", type=int, help="how many samples of --data to use (default: all)")
    parser.add_argument("--copies", type=int, default=1, help="how often each image of --data is looked at (default 1)")
    parser.add_argument("--metric", help="top1, top5, psnr, ... (default: what the labels call for)")
    parser.add_argument("--peak", type=float, default=1.0, help="largest value of a picture, for psnr (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="threads within an operator (default 1)")
    parser.add_argument("--memory", default="4GB", help="what fitting may take (default 4GB)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default 0)")


def opened(options: argparse.Namespace, stack: ExitStack) -> Opened:
    """Open what the options name, for as long as the stack lives."""
    model = model_io.load(options.model)
    folder = is_folder(options.data) or is_folder(options.test)
    images = PRESETS[options.image_preset]() if folder else None
    reading, judging = data_options(
        options.data, options.test, options.samples, images, options.memory, options.seed, options.copies
    )
    source = stack.enter_context(calibration_data(model, options.data, {}, reading))
    test = stack.enter_context(evaluation_data(model, options.test, {}, judging))
    if source is None or test is None:
        raise AssertionError("both paths are given")
    return Opened(model, source, test, target_of("cpu", options.threads, shapes_of(None, source, test)), images)


def exit_code(report: Callable[[ExitStack], int]) -> int:
    """Run ``report``; what is wrong with the files is one line and an exit code of the command line."""
    try:
        with ExitStack() as stack:
            return report(stack)
    except OnnxlrError as error:
        print(error, file=sys.stderr)
        return error.exit_code
