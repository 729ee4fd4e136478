"""Fine-tune a rewritten model: ONNX in, the same graph with other weights out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from onnxlr.errors import ModelError, UsageError
from onnxlr.training.augment import parse_augment
from onnxlr.training.balance import balance
from onnxlr.training.blocks import find_blocks, statistics, trainable
from onnxlr.training.checkpoint import State, load_state
from onnxlr.training.confirm import confirm
from onnxlr.training.data import order_of, split
from onnxlr.training.executor import TorchGraph
from onnxlr.training.losses import Criterion, check_labels, outputs_of, variances
from onnxlr.training.machine import deterministic
from onnxlr.training.summary import FinetuneSummary
from onnxlr.training.task import Evaluation, Task, answers, fits_cache
from onnxlr.training.trainer import Phase, Trainer
from onnxlr.training.workers import workers
from onnxlr.training.writeback import write_back

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from torch import Tensor

    from onnxlr.model_io import Model
    from onnxlr.progress import Progress
    from onnxlr.target import Target
    from onnxlr.training.blocks import Block
    from onnxlr.training.data import Samples
    from onnxlr.training.options import TrainOptions
    from onnxlr.training.workers import Workers

_FEW = 256  # samples that tell the scale of an activation
_TRAINED = frozenset({torch.float32, torch.float64})


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The model with its best weights, and the record of the run."""

    proto: onnx.ModelProto
    summary: FinetuneSummary


def finetune(
    model: Model,
    teacher: Model | None,
    samples: Samples,
    options: TrainOptions,
    target: Target,
    checkpoint: Path | None,
    progress: Progress,
) -> Outcome:
    """Train ``model`` to answer as ``teacher`` does, or as the labels say, or both.

    Block by block first: each rewritten layer gets what it receives in the rewritten network, and learns the answer of
    the layer it replaced (Zhang et al. 2015 call this the asymmetric reconstruction); then end to end. The weights with
    the least held-out loss are returned, those of ``model`` itself where none are better.

    Parameters
    ----------
    checkpoint
        Where to write checkpoints, and to go on from if it is there. None: nowhere.

    Raises
    ------
    UsageError
        When options contradict each other or the models.
    ModelError
        When a model cannot be trained, or data do not fit.
    ValidationError
        When ONNX Runtime does not compute what was trained.
    """
    began = perf_counter()
    whole = samples.batch is not None or options.batchnorm  # a batch that cannot be cut, or must not
    count = 1 if whole else target.threads
    with deterministic(target.threads if whole else 1), workers(count) as crew:
        task, notes = _task(model, teacher, samples, options, crew)
        names = _chosen(task, options)
        before = task.evaluate()
        original = {name: task.student.weight(name).detach().clone() for name in _kept(task, names, options)}
        trainer = _trainer(task, names, options, checkpoint, _fingerprint(model, teacher, samples, options), progress)
        state = None if checkpoint is None else load_state(checkpoint, trainer.fingerprint)
        if state is None:
            for block in task.blocks:
                if block.is_cp:
                    balance(block, task.student)
            balanced = {name: task.student.weight(name).detach().clone() for name in original}
            state = State(balanced, original, before.loss)
        state = trainer.run(state)
        after = task.evaluate()
        weights = state.best
        if not after.loss < before.loss:
            notes.append("no weights were better on the held-out part than those it began with: nothing is changed")
            weights, after = {}, before
        proto = write_back(model.proto, model.folder, weights)
        confirm(proto, model.folder, target, task)
    summary = _summary(model, teacher, task, trainer, (before, after), state, (*samples.notes, *notes))
    return Outcome(proto, replace(summary, seconds=perf_counter() - began))


def _task(
    model: Model, teacher: Model | None, samples: Samples, options: TrainOptions, crew: Workers
) -> tuple[Task, list[str]]:
    """Read the networks and split the samples."""
    student = TorchGraph(model.proto, model.folder)
    mentor = None if teacher is None else TorchGraph(teacher.proto, teacher.folder)
    if mentor is not None and (set(mentor.inputs), mentor.outputs) != (set(student.inputs), student.outputs):
        raise ModelError("the two models do not have the same inputs and outputs", "give the one it was rewritten from")
    if mentor is None and samples.labels is None:
        raise UsageError("there is nothing to learn from", "give --teacher, --labels or both")
    if options.augment and samples.labels is not None and samples.labels[:1].numel() > 1:
        raise UsageError(
            f"--augment {options.augment}: labels of several numbers a sample do not move with the images",
            "leave out --augment, or --labels",
        )
    train, held = split(samples, options.held_out, options.seed)
    targets = None if mentor is None else answers(mentor, held, crew)
    example = targets or answers(student, held, crew)
    outputs = outputs_of(student, example, options)
    if samples.labels is not None:
        check_labels(samples.labels, outputs[0], example[outputs[0].name])
    weight = 0.0 if samples.labels is None else 1.0 if mentor is None else options.label_weight
    blocks, notes = _blocks(student, mentor)
    criterion = Criterion(outputs, options.temperature, weight)
    few = held.take(next(held.slices(_FEW))).inputs
    scales = {} if mentor is None else variances(mentor, few, [block.output for block in blocks])
    return Task(student, mentor, train, held, targets, criterion, blocks, scales, crew), notes


def _blocks(student: TorchGraph, teacher: TorchGraph | None) -> tuple[tuple[Block, ...], list[str]]:
    """Return the rewritten blocks; those the teacher has no answer for are told."""
    found = find_blocks(student)
    if teacher is None:
        return found, []
    values = {name for node in teacher.nodes for name in node.outputs}
    known = tuple(block for block in found if block.output in values)
    lost = len(found) - len(known)
    note = f"{lost} of {len(found)} rewritten layers give a value that the teacher does not have; they learn end to end"
    return known, [note] if lost else []


def _chosen(task: Task, options: TrainOptions) -> tuple[str, ...]:
    """Return the names of the weights to train."""
    names = trainable(task.student, batchnorm=options.batchnorm)
    if options.freeze_basis or options.orthogonality:
        bases = {block.basis for block in task.blocks} - {None}
        if not bases:
            raise UsageError(
                "the model has no basis chains to freeze or to keep orthogonal", "rewrite with --scheme basis"
            )
        if options.freeze_basis:
            names = tuple(name for name in names if name not in bases)
    if not names:
        raise ModelError("the model has no weights in its initializers that could be trained")
    for name in names:
        dtype = task.student.weight(name).dtype
        if dtype not in _TRAINED:
            raise ModelError(f"weight '{name}' is {str(dtype).removeprefix('torch.')}", "train before converting to it")
    return names


def _kept(task: Task, names: tuple[str, ...], options: TrainOptions) -> tuple[str, ...]:
    """Return all weights that a run may change: those trained, and statistics where they are learnt."""
    learnt = [name for _, pair in statistics(task.student) for name in pair] if options.batchnorm else []
    cp = [name for block in task.blocks if block.is_cp for name in block.factors]
    return tuple(dict.fromkeys((*names, *cp, *learnt)))


def _trainer(
    task: Task,
    names: tuple[str, ...],
    options: TrainOptions,
    checkpoint: Path | None,
    fingerprint: str,
    progress: Progress,
) -> Trainer:
    cp = {name for block in task.blocks if block.is_cp for name in block.factors}
    own = {name for block in find_blocks(task.student) for name in block.weights}
    factor = {
        name: options.cp_rate if name in cp else 1.0 if name in own or not own else options.dense_rate for name in names
    }
    inside = [name for block in task.blocks for name in block.weights if name in factor]
    augment = parse_augment(options.augment)
    phases = []
    if options.block_epochs and inside and task.teacher is not None:
        order = order_of(task.train, options.batch, options.block_epochs, (options.seed, 1))
        phases.append(Phase("blocks", order, {name: options.block_rate * factor[name] for name in inside}, True))
    if options.epochs:
        order = order_of(task.train, options.batch, options.epochs, (options.seed, 2))
        rates = {name: options.learning_rate * factor[name] for name in names if factor[name]}
        phases.append(Phase("finetune", order, rates, False))
    learning = frozenset(label for label, _ in statistics(task.student)) if options.batchnorm else frozenset()
    targets = None
    if options.epochs and not augment and not options.activation_weight and task.held_targets is not None:
        targets = _all_answers(task)
    return Trainer(task, phases, options, augment, targets, learning, checkpoint, fingerprint, progress)


def _all_answers(task: Task) -> dict[str, Tensor] | None:
    """Return the teacher's outputs for the training part, unless they are too large to be kept."""
    if task.teacher is None or task.held_targets is None or not fits_cache(task.held_targets, task.train):
        return None
    found = answers(task.teacher, task.train, task.workers)
    return found if all(len(value) == task.train.count for value in found.values()) else None


def _fingerprint(model: Model, teacher: Model | None, samples: Samples, options: TrainOptions) -> str:
    """Return what a checkpoint belongs to."""
    parts = (model.sha256, "" if teacher is None else teacher.sha256, samples.digest(), repr(options))
    return sha256("\n".join(parts).encode()).hexdigest()


def _summary(
    model: Model,
    teacher: Model | None,
    task: Task,
    trainer: Trainer,
    evaluations: tuple[Evaluation, Evaluation],
    state: State,
    notes: tuple[str, ...],
) -> FinetuneSummary:
    return FinetuneSummary(
        model=str(model.path or "(in memory)"),
        model_sha256=model.sha256,
        teacher=None if teacher is None else str(teacher.path or "(in memory)"),
        trained=task.train.count,
        held_out=task.held.count,
        blocks=len(task.blocks),
        weights=sum(task.student.weight(name).numel() for name in trainer.phases[-1].rates) if trainer.phases else 0,
        steps=sum(phase.order.steps for phase in trainer.phases),
        before=evaluations[0],
        after=evaluations[1],
        history=tuple(state.history),
        options=trainer.options,
        notes=notes,
    )
