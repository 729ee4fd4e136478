"""onnxlr validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from onnxlr.cli.options import DrawSeed, Provider, ProviderOption, Shapes, Threads, parse_shapes


def command(
    reference: Annotated[Path, typer.Argument(help="The model to compare with.", show_default=False)],
    new: Annotated[Path, typer.Argument(help="The model to judge.", show_default=False)],
    data: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotations at run time
        typer.Option(
            "--data",
            metavar="PATH",
            help="Inputs to compare on: .npz with an array per input, .npy, or a folder of those or of images; random "
            "ones from --seed otherwise.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", help="How many random inputs, or samples of --data, to compare on.", min=1)
    ] = 16,
    min_cosine: Annotated[
        float, typer.Option("--min-cosine", help="Least cosine with the reference, of every output.", min=-1, max=1)
    ] = 0.9,
    max_error: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--max-error", help="Largest relative L2 error of an output; no limit by default.", show_default=False
        ),
    ] = None,
    shape: Shapes = None,
    provider: ProviderOption = Provider.CPU,
    threads: Threads = 0,
    seed: DrawSeed = 0,
) -> int:
    """Run both models on the same inputs and compare every output; exit code 5 when NEW fails."""
    from onnxlr import api
    from onnxlr.cli.console import progress, show
    from onnxlr.errors import ValidationError
    from onnxlr.report.terminal import render_verdict

    with progress() as tell:
        verdict = api.validate(
            reference,
            new,
            data=data,
            samples=samples,
            min_cosine=min_cosine,
            max_error=max_error,
            shapes=parse_shapes(shape),
            provider=provider.value,
            threads=threads,
            seed=seed,
            progress=tell,
        )
    show(render_verdict(verdict))
    return 0 if verdict.passed else ValidationError.exit_code
