"""onnxlr search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

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

if TYPE_CHECKING:
    from onnxlr.report.front import Front


def command(
    model: ModelPath,
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotations at run time
        typer.Option(
            "--out", "-o", help="Where to write the front, JSON; default MODEL with .front.json.", show_default=False
        ),
    ] = None,
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--plot", metavar="FILE", help="Draw speed against loss, SVG.", show_default=False),
    ] = None,
    save_plans: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--save-plans",
            metavar="FOLDER",
            help="Write the plan of each model on the front, for rewrite --plan.",
            show_default=False,
        ),
    ] = None,
    scheme: Scheme = ["auto"],  # noqa: B006 - typer copies it
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
    trials: Trials = 24,
    at: Annotated[
        Optional[list[float]],  # noqa: UP045
        typer.Option(
            "--at",
            metavar="SPEED-UP",
            help="First try models this many times as fast, such as 2, up to three each; repeatable.",
            show_default=False,
        ),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    shape: Shapes = None,
    provider: ProviderOption = Provider.CPU,
    threads: Threads = 0,
    no_cache: NoCache = False,
    no_simplify: NoSimplify = False,
    force: Force = False,
    seed: DrawSeed = 0,
    jobs: Jobs = 0,
) -> None:
    """Show what speed costs in accuracy: the models that no other beats in both. Writes no model.

    Interrupted, or given more trials, it goes on where it was: trials are kept beside the latency cache. Without it,
    and with a metric of your own, they are kept in OUT.state until all is written.
    """
    from onnxlr.cli.console import progress, show
    from onnxlr.cli.outputs import check_outputs
    from onnxlr.front import search
    from onnxlr.model_io import check_folder, make_folder, write_text
    from onnxlr.planning.plan import Plan
    from onnxlr.report.search_view import render_front

    target = out or model.with_name(f"{model.stem}.front.json")
    state = target.parent / f"{target.name}.state"
    reserve = {"the trials of --out": state}
    if save_plans is not None:
        if not (force and save_plans.is_dir()):
            check_outputs({"--save-plans": save_plans}, reserve=reserve, force=False)
        reserve["--save-plans"] = save_plans
    check_outputs(
        {"--out": target, "--plot": plot},
        models=(model,),
        protect=[path for path in (data, evaluation) if path is not None],
        reserve=reserve,
        force=force,
    )
    if save_plans is not None:
        check_folder(save_plans)
    written: list[Path] = []

    def write(front: Front) -> None:
        texts = {target: front.to_json()}
        if plot is not None:
            texts[plot] = front.to_svg()
        if save_plans is not None:
            make_folder(save_plans)
            for number, index in enumerate(front.best, start=1):
                trial = front.trials[index]
                plan = Plan(trial.choices, front.model_sha256, f"{trial.faster:.2f}x faster, of a search")
                texts[save_plans / f"{number:02d}-{trial.faster:.2f}x.json"] = plan.to_json()
        for path, text in texts.items():
            write_text(path, text, force=force)
            written.append(path)

    with progress() as tell:
        front = search(
            model,
            scheme=scheme,
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
            trials=trials,
            at=at or (),
            cache=not no_cache,
            include=include or (),
            exclude=exclude or (),
            shapes=parse_shapes(shape),
            provider=provider.value,
            threads=threads,
            simplify=not no_simplify,
            seed=seed,
            jobs=jobs,
            state=state,
            deliver=write,
            progress=tell,
        )
    show(render_front(front), *(f"wrote {path}" for path in written))
