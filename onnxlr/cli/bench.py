"""onnxlr bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxlr.cli.options import Force, JsonFile, Provider, ProviderOption, Seed, Shapes, Threads, parse_shapes


def command(
    models: Annotated[list[Path], typer.Argument(help="Models with the same inputs; the first is the reference.")],
    shape: Shapes = None,
    provider: ProviderOption = Provider.CPU,
    threads: Threads = 0,
    seconds: Annotated[float, typer.Option("--seconds", help="Seconds to spend on each model.", min=0.1)] = 1.5,
    json_file: JsonFile = None,
    force: Force = False,
    seed: Seed = 0,
) -> None:
    """Time models against each other, taking turns: median, spread, ratio to the first with its 95 % interval."""
    from onnxlr import api
    from onnxlr.cli.console import progress, show
    from onnxlr.cli.outputs import check_outputs
    from onnxlr.model_io import write_text
    from onnxlr.report.terminal import render_bench

    check_outputs({"--json": json_file}, protect=models, force=force)
    with progress() as tell:
        result = api.bench(
            *models,
            shapes=parse_shapes(shape),
            provider=provider.value,
            threads=threads,
            seconds=seconds,
            seed=seed,
            progress=tell,
        )
    if json_file is not None:
        write_text(json_file, result.to_json(), force=force)
    show(render_bench(result))
    if json_file is not None:
        show(f"wrote {json_file}")
