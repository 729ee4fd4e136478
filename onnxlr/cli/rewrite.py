"""onnxlr rewrite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Optional

import typer

from onnxlr.cli.images import (
    ImageCrop,
    ImageLayout,
    ImageMean,
    ImageOrder,
    ImagePreset,
    ImageScale,
    ImageSize,
    ImageStd,
    image_options,
)
from onnxlr.cli.options import (
    Copies,
    DataPath,
    DrawSeed,
    EvalPath,
    EvalShare,
    Exclude,
    Force,
    Include,
    Jobs,
    JsonFile,
    KeepMacs,
    MemorySize,
    Metric,
    ModelPath,
    NoCache,
    NoSimplify,
    Peak,
    Provider,
    ProviderOption,
    Samples,
    Scheme,
    Shapes,
    Threads,
    Trials,
    parse_shapes,
)


def command(
    model: ModelPath,
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotations at run time
        typer.Option("--out", "-o", help="Where to write; default MODEL with .lr.onnx.", show_default=False),
    ] = None,
    scheme: Scheme = ["auto"],  # noqa: B006 - typer copies it
    keep_macs: KeepMacs = None,
    energy: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--energy",
            help="Share of every kernel's squared norm to keep, 0 to 1; layers where no chain is cheaper stay.",
            show_default=False,
        ),
    ] = None,
    rank: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--rank",
            metavar="N|evbmf",
            help="This rank on every layer, also where it does not pay; evbmf: the rank that stands above the noise.",
            show_default=False,
        ),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    data: DataPath = None,
    samples: Samples = None,
    copies: Copies = 1,
    image_preset: ImagePreset = None,
    image_size: ImageSize = None,
    image_crop: ImageCrop = None,
    image_mean: ImageMean = None,
    image_std: ImageStd = None,
    image_scale: ImageScale = None,
    image_layout: ImageLayout = None,
    image_order: ImageOrder = None,
    memory: MemorySize = "4GB",
    evaluation: EvalPath = None,
    metric: Metric = None,
    eval_share: EvalShare = 0.5,
    peak: Peak = 1.0,
    max_drop: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--max-drop",
            help="Find the fastest model that loses at most this much of the metric: 0.01 is one point of an accuracy; "
            "dB for psnr.",
            show_default=False,
        ),
    ] = None,
    max_error: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--max-error",
            help="Find the fastest model whose outputs are at most this far off (relative L2), where there is no "
            "--eval. Proves no accuracy.",
            show_default=False,
        ),
    ] = None,
    min_speedup: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--min-speedup", help="Times faster, measured, at least.", show_default=False),
    ] = None,
    target_latency: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--target-latency", metavar="MS", help="Milliseconds a run, at most.", show_default=False),
    ] = None,
    max_size: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--max-size", metavar="MB", help="Megabytes of the new model, at most.", show_default=False),
    ] = None,
    trials: Trials = 16,
    no_cache: NoCache = False,
    shape: Shapes = None,
    provider: ProviderOption = Provider.CPU,
    threads: Threads = 0,
    plan: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--plan", metavar="FILE", help="Replay a plan instead of choosing.", show_default=False),
    ] = None,
    save_plan: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--save-plan", metavar="FILE", help="Write the plan, JSON.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan, count and print; run and write no model.")] = False,
    json_file: JsonFile = None,
    force: Force = False,
    no_simplify: NoSimplify = False,
    no_validate: Annotated[
        bool,
        typer.Option(
            "--no-validate", help="Write without running the models: for types or operators the target lacks."
        ),
    ] = False,
    seed: DrawSeed = 0,
    jobs: Jobs = 0,
) -> None:
    """Replace convolutions and large linear layers by low-rank chains, and show what that gained and cost.

    The new model is written only when it runs on the target and computes what its factors say.
    """
    from onnxlr import api
    from onnxlr.cli.console import progress, show
    from onnxlr.cli.outputs import check_data_output, check_outputs
    from onnxlr.model_io import data_file, is_split, load, write_text
    from onnxlr.report.summary_view import render_summary

    target = out or model.with_name(f"{model.stem}.lr.onnx")
    inputs = [path for path in (plan, data, evaluation) if path is not None]
    check_outputs(
        {"--out": None if dry_run else target, "--save-plan": save_plan, "--json": json_file},
        models=(model,),
        protect=inputs,
        reserve={} if dry_run else {"the weights of --out": data_file(target)},
        force=force,
    )
    if not dry_run:
        check_data_output(target, model, protect=inputs, force=force)
    with progress() as tell:
        result = api.rewrite(
            model,
            scheme=scheme,
            keep_macs=keep_macs,
            energy=energy,
            rank=rank,
            data=data,
            samples=samples,
            copies=copies,
            images=image_options(
                image_preset,
                size=image_size,
                crop=image_crop,
                mean=image_mean,
                std=image_std,
                scale=image_scale,
                layout=image_layout,
                order=image_order,
            ),
            memory=memory,
            evaluation=evaluation,
            metric=metric,
            eval_share=eval_share,
            peak=peak,
            max_drop=max_drop,
            max_error=max_error,
            min_speedup=min_speedup,
            target_latency=target_latency,
            max_size=max_size,
            trials=trials,
            cache=not no_cache,
            include=include or (),
            exclude=exclude or (),
            shapes=parse_shapes(shape),
            provider=provider.value,
            threads=threads,
            plan=plan,
            simplify=not no_simplify,
            validate=not no_validate,
            dry_run=dry_run,
            seed=seed,
            jobs=jobs,
            progress=tell,
        )
    # Files first: a reader that closes the pipe early must not cost them.
    written, summary = [], result.summary
    if not dry_run:
        written.append(result.save(target, force=force))
        if is_split(result.model, result.source.folder, external=result.source.external):
            written.append(data_file(target))
        if json_file is not None:
            summary = replace(summary, written=str(target), written_sha256=load(target).sha256)
    for path, text in ((save_plan, result.plan.to_json), (json_file, summary.to_json)):
        if path is not None:
            write_text(path, text(), force=force)
            written.append(path)
    show(render_summary(result.summary), *(f"wrote {path}" for path in written))
