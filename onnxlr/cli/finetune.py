"""onnxlr finetune."""

from __future__ import annotations

from enum import StrEnum
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
    Force,
    JsonFile,
    ModelPath,
    Samples,
    Threads,
)
from onnxlr.errors import UsageError


class Loss(StrEnum):
    """How outputs are compared."""

    AUTO = "auto"
    KL = "kl"
    MSE = "mse"


class Optimizer(StrEnum):
    """Optimizers."""

    ADAM = "adam"
    SGD = "sgd"


def command(
    model: ModelPath,
    data: Annotated[
        Path,
        typer.Option("--data", metavar="PATH", help="Training samples: .npz, .npy, or a folder of those or of images."),
    ],
    teacher: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotations at run time
        typer.Option("--teacher", metavar="FILE", help="The original model to learn from.", show_default=False),
    ] = None,
    labels: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--labels", metavar="NAME", help="Array of labels in the .npz file.", show_default=False),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Where to write; default MODEL with .ft.onnx.", show_default=False),
    ] = None,
    samples: Samples = None,
    image_preset: ImagePreset = None,
    image_size: ImageSize = None,
    image_crop: ImageCrop = None,
    image_mean: ImageMean = None,
    image_std: ImageStd = None,
    image_scale: ImageScale = None,
    image_layout: ImageLayout = None,
    image_order: ImageOrder = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the training part, end to end.", min=0)] = 10,
    block_epochs: Annotated[
        int, typer.Option("--block-epochs", help="Passes before that, each rewritten layer alone.", min=0)
    ] = 1,
    batch: Annotated[
        str, typer.Option("--batch", metavar="N[,N]", help="Batch sizes; several take equal shares of the epochs.")
    ] = "64",
    learning_rate: Annotated[
        float,
        typer.Option("--learning-rate", help="Peak learning rate end to end, relative to the size of each weight."),
    ] = 5e-4,
    block_rate: Annotated[float, typer.Option("--block-rate", help="The same, layer by layer.")] = 1e-3,
    cp_rate: Annotated[float, typer.Option("--cp-rate", help="Factor on both for the weights of CP chains.")] = 0.5,
    dense_rate: Annotated[
        float, typer.Option("--dense-rate", help="Factor for layers that were not rewritten; 0: they stay.", min=0)
    ] = 0.1,
    optimizer: Annotated[Optimizer, typer.Option("--optimizer", help="adam or sgd.")] = Optimizer.ADAM,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Decoupled weight decay.")] = 0.0,
    clip: Annotated[float, typer.Option("--clip", help="Largest norm of a step's gradient.")] = 5.0,
    held_out: Annotated[
        float, typer.Option("--held-out", help="Share of the samples that decides which weights are kept.")
    ] = 0.1,
    patience: Annotated[
        int, typer.Option("--patience", help="Stop after so many epochs without a gain; 0: never.", min=0)
    ] = 0,
    loss: Annotated[
        Loss, typer.Option("--loss", help="kl for class scores, mse otherwise; auto: kl for outputs of two axes.")
    ] = Loss.AUTO,
    temperature: Annotated[float, typer.Option("--temperature", help="Of the teacher's class scores.")] = 2.0,
    label_weight: Annotated[float, typer.Option("--label-weight", help="Share of the labels in the loss.")] = 0.5,
    activation_weight: Annotated[
        float, typer.Option("--activation-weight", help="Weight of the rewritten layers' outputs in the loss.")
    ] = 0.0,
    freeze_basis: Annotated[
        bool, typer.Option("--freeze-basis", help="Keep the basis filters of basis chains; train what mixes them.")
    ] = False,
    orthogonality: Annotated[
        float, typer.Option("--orthogonality", help="Weight of the penalty on basis filters that overlap.")
    ] = 0.0,
    train_batchnorm: Annotated[
        bool, typer.Option("--train-batchnorm", help="Train BatchNormalization nodes, statistics included.")
    ] = False,
    augment: Annotated[
        str,
        typer.Option("--augment", metavar="LIST", help="Random changes of images, channels first: flip, crop:PIXELS."),
    ] = "",
    threads: Threads = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the split, the order and the augmentation.", min=0)] = 0,
    checkpoint: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--checkpoint", metavar="FILE", help="Checkpoint to go on from; default OUT.checkpoint.", show_default=False
        ),
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option("--checkpoint-every", help="Steps between checkpoints.", min=1)
    ] = 200,
    json_file: JsonFile = None,
    force: Force = False,
) -> None:
    """Train the weights of a rewritten model to answer as the original does, and write them into the same graph.

    An interrupted run goes on from its checkpoint when the same command is given again, to the same result.
    """
    from onnxlr.cli.console import progress, show
    from onnxlr.cli.outputs import check_data_output, check_outputs
    from onnxlr.model_io import data_file, remove, write_text
    from onnxlr.training.api import finetune
    from onnxlr.training.options import TrainOptions
    from onnxlr.training.view import render_finetune

    target = out or model.with_name(f"{model.stem}.ft.onnx")
    saved = checkpoint or target.parent / f"{target.name}.checkpoint"
    models = [path for path in (model, teacher) if path is not None]
    weights = {"the weights of --out": data_file(target)}
    check_outputs(
        {"--out": target, "--json": json_file},
        models=models,
        protect=(data,),
        reserve={**weights, "--checkpoint": saved},
        force=force,
    )
    check_outputs({"--checkpoint": saved}, models=models, protect=(data,), reserve=weights, force=True)
    check_data_output(target, model, models=models[1:], protect=(data,), force=force)
    options = TrainOptions(
        epochs=epochs,
        block_epochs=block_epochs,
        batch=_sizes(batch),
        learning_rate=learning_rate,
        block_rate=block_rate,
        cp_rate=cp_rate,
        dense_rate=dense_rate,
        optimizer=optimizer.value,
        weight_decay=weight_decay,
        clip=clip,
        held_out=held_out,
        patience=patience,
        loss=loss.value,
        temperature=temperature,
        label_weight=label_weight,
        activation_weight=activation_weight,
        freeze_basis=freeze_basis,
        orthogonality=orthogonality,
        batchnorm=train_batchnorm,
        augment=augment,
        checkpoint_every=checkpoint_every,
        seed=seed,
    )
    with progress() as tell:
        result = finetune(
            model,
            teacher=teacher,
            data=data,
            labels=labels,
            samples=samples,
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
            options=options,
            threads=threads,
            checkpoint=saved,
            progress=tell,
        )
    written = [result.save(target, force=force)]
    if json_file is not None:
        write_text(json_file, result.summary.to_json(), force=force)
        written.append(json_file)
    remove(saved)
    show(render_finetune(result.summary), *(f"wrote {path}" for path in written))


def _sizes(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--batch {text} is not a list of sizes", "for example --batch 32,128")
    return tuple(int(part) for part in parts)
