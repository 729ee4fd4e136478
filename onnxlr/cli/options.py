"""Options that several commands share, and their parsers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer

from onnxlr.errors import UsageError


class Provider(StrEnum):
    """Execution providers by the names used here."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"


ModelPath = Annotated[Path, typer.Argument(help="The model, an .onnx file.", show_default=False)]
Shapes = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads the annotation at run time
    typer.Option(
        "--shape",
        metavar="NAME=SIZES",
        help="Full shape of an input with free dimensions, as x=1x3x224x224; once per input. A free first "
        "dimension is 1 where nothing is said.",
    ),
]
ProviderOption = Annotated[
    Provider, typer.Option("--provider", help="ONNX Runtime execution provider to run and measure on.")
]
Threads = Annotated[
    int,
    typer.Option("--threads", help="Threads within an operator; 0 is every physical core this process may use.", min=0),
]
JsonFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--json", metavar="FILE", help="Write the whole report as JSON to FILE.", show_default=False),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the random inputs.", min=0)]
DrawSeed = Annotated[
    int, typer.Option("--seed", help="Seed of the random inputs, and of which samples --samples takes.", min=0)
]
Scheme = Annotated[
    list[str],
    typer.Option(
        "--scheme",
        help="auto, or basis, projection, separable, tucker2, cp3, cp4, mixed, asym3d, winograd; may be repeated.",
    ),
]
Include = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--include", metavar="PATTERN", help="Only nodes whose name matches, as 'layer4*'; may be repeated."),
]
Exclude = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--exclude", metavar="PATTERN", help="Leave out nodes whose name matches; may be repeated."),
]
DataPath = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--data",
        metavar="PATH",
        help="Unlabelled data the factors are fitted to: .npz, .npy, or a folder of those or of images.",
        show_default=False,
    ),
]
Samples = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--samples", help="How many samples of --data to use; all by default.", min=1, show_default=False),
]
Copies = Annotated[
    int,
    typer.Option(
        "--copies",
        help="How often to look at each image of --data: as it is, mirrored, then zoomed in on random parts.",
        min=1,
    ),
]
MemorySize = Annotated[
    str, typer.Option("--memory", metavar="SIZE", help="What fitting to data may take, about, as 512MB or 4GB.")
]
NoSimplify = Annotated[bool, typer.Option("--no-simplify", help="Do not run onnxsim and do not unlist weights first.")]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs", help="Layers to work on at a time; 0 is one a core. The result does not depend on it.", min=0
    ),
]
EvalPath = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--eval",
        metavar="PATH",
        help="Labelled data to judge models on: .npz with an array per input and the labels, or a folder of class "
        "folders of images.",
        show_default=False,
    ),
]
Metric = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--metric",
        help="top1, top5, psnr, cosine, agreement (with the original), or module:function(outputs, labels); higher is "
        "better. By default what the labels call for.",
        show_default=False,
    ),
]
EvalShare = Annotated[
    float,
    typer.Option("--eval-share", help="Share of --eval to choose models by; the others are kept to report on."),
]
Peak = Annotated[float, typer.Option("--peak", help="Largest value of a picture, for psnr.")]
KeepMacs = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--keep-macs",
        help="Share of the whole model's multiply-adds to keep, 0 to 1; families and ranks are chosen exactly. "
        "The default, at 0.5, where there is no other goal.",
        show_default=False,
    ),
]
Trials = Annotated[int, typer.Option("--trials", help="Most models to build, judge and time on the way.", min=1)]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Measure every latency anew; neither read nor write the cache.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing output files.")]


def parse_shapes(given: list[str] | None) -> dict[str, tuple[int, ...]]:
    """Parse ``NAME=1x3x224x224`` options.

    Raises
    ------
    UsageError
        When one is not of that form.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in given or ():
        name, equals, sizes = text.rpartition("=")
        parts = sizes.lower().split("x")
        if not equals or not name or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise UsageError(f"--shape {text} is not NAME=SIZES", "for example --shape input=1x3x224x224")
        shapes[name] = tuple(int(part) for part in parts)
    return shapes
