"""onnxlr bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from onnxlr.cli.options import Force, JsonFile, Provider, ProviderOption, Seed, Shapes, Threads, parse_shapes
from onnxlr.errors import UsageError


def command(
    models: Annotated[
        Optional[list[Path]],  # noqa: UP045 - typer reads the annotations at run time
        typer.Argument(help="Models with the same inputs; the first is the reference.", show_default=False),
    ] = None,
    recorded: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--from",
            metavar="FILE",
            help="Measure again what a JSON report of rewrite or bench records: its models, shapes, target and seed.",
            show_default=False,
        ),
    ] = None,
    shape: Shapes = None,
    provider: ProviderOption = Provider.CPU,
    threads: Threads = 0,
    seconds: Annotated[float, typer.Option("--seconds", help="Seconds to spend on each model.", min=0.1)] = 1.5,
    json_file: JsonFile = None,
    force: Force = False,
    seed: Seed = 0,
) -> None:
    """Time models against each other, taking turns: median, spread, ratio to the first with its 95 % interval."""
    from onnxlr.cli.console import progress, show
    from onnxlr.cli.outputs import check_outputs
    from onnxlr.cost.timing import TimingOptions
    from onnxlr.model_io import load, write_text
    from onnxlr.report.terminal import render_bench
    from onnxlr.target import Target
    from onnxlr.validation.latency import bench
    from onnxlr.validation.recorded import read_recorded

    given = models or []
    if bool(given) == (recorded is not None):
        raise UsageError("bench takes models or --from, one of the two", "for example onnxlr bench a.onnx b.onnx")
    if recorded is not None and (shape or seed or threads or provider is not Provider.CPU):
        raise UsageError("--from already says where and on what", "leave out --shape, --provider, --threads and --seed")
    check_outputs({"--json": json_file}, protect=given if recorded is None else [recorded], force=force)
    notes: tuple[str, ...] = ()
    if recorded is None:
        target = Target(provider.value, threads, tuple(parse_shapes(shape).items()))
        loaded = [load(model) for model in given]
    else:
        record = read_recorded(recorded)
        target, seed, notes = record.target, record.seed, record.notes()
        loaded = list(record.models())
    files = [file for model in loaded for file in model.files]
    check_outputs({"--json": json_file}, protect=files, force=force)
    with progress() as tell:
        result = bench(
            loaded,
            target,
            seed=seed,
            options=TimingOptions(budget_s=seconds),
            progress=lambda share: tell("measure", share),
        )
    if json_file is not None:
        write_text(json_file, result.to_json(), force=force)
    show(render_bench(result), *notes)
    if json_file is not None:
        show(f"wrote {json_file}")
