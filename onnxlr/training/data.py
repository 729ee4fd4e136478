"""Samples for training: all in memory, split into a training and a held-out part, drawn in an order set by the seed."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from onnxlr.calibration import DataOptions, from_iterable, open_source
from onnxlr.calibration.arrays import StoredArray, stored_arrays
from onnxlr.errors import ModelError, UsageError
from onnxlr.target import graph_inputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import onnx

    from onnxlr.calibration import DataReader, Source
    from onnxlr.target import Feeds, Input

    Data = str | PathLike[str] | DataReader | Iterable[Feeds]
    Labels = str | np.ndarray[Any, Any] | None

_READ = 256


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Inputs by name, samples along the first axis, and labels: integers (n,), or what an output should be.

    ``batch`` is the number of samples the model fixes, None where it is free.
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor | None
    batch: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.inputs.values())))

    def take(self, chosen: np.ndarray[Any, np.dtype[np.int64]] | slice) -> Samples:
        """Return some of the samples."""
        index = chosen if isinstance(chosen, slice) else torch.from_numpy(chosen)
        inputs = {name: value[index] for name, value in self.inputs.items()}
        return Samples(inputs, None if self.labels is None else self.labels[index], self.batch, self.notes)

    def slices(self, size: int) -> Iterator[slice]:
        """Cut all samples into batches, in order; one that does not fill the batch the model fixes is left out."""
        size = self.batch or size
        for start in range(0, self.count, size):
            if self.batch is None or start + size <= self.count:
                yield slice(start, start + size)

    def digest(self) -> str:
        """Return the SHA-256 of all arrays, hexadecimal."""
        made = sha256()
        for name, value in [*self.inputs.items(), ("labels", self.labels)]:
            if value is not None:
                made.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
                made.update(np.ascontiguousarray(value.numpy()).data)
        return made.hexdigest()


def read_samples(proto: onnx.ModelProto, data: Data, labels: Labels, options: DataOptions) -> Samples:
    """Read all samples for the inputs of a model.

    ``labels`` names an array of the .npz file ``data``, or is the array.

    Raises
    ------
    UsageError, ModelError
        When the data cannot be read or do not fit, or there are not as many labels as samples.
    """
    inputs = graph_inputs(proto)
    path = Path(data) if isinstance(data, str | PathLike) else None
    answers = _stored_labels(path, labels) if isinstance(labels, str) else labels
    with _opened(data, inputs, options, labels if isinstance(labels, str) else None) as source:
        if answers is not None:
            _check_count(answers.shape, source, options.samples if path is None else None)
        pieces = list(source.batches(_READ))
        arrays = {item.name: np.concatenate([piece[item.name] for piece in pieces]) for item in inputs}
        found = _labels(answers, source)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Samples(tensors, found, source.batch, source.notes)


def _opened(data: Data, inputs: Sequence[Input], options: DataOptions, label: str | None) -> Source:
    if isinstance(data, str | PathLike):
        return open_source(Path(data), inputs, {}, options, label=label)
    return from_iterable(data, inputs, {}, options)


def _stored_labels(path: Path | None, name: str) -> StoredArray:
    if path is None or path.suffix.lower() != ".npz":
        raise UsageError(f"--labels {name}: labels are read from an .npz file", "give --data FILE.npz")
    stored = stored_arrays(path)
    if name not in stored:
        raise UsageError(f"{path} has no array '{name}'", f"its arrays: {', '.join(stored)}")
    return stored[name]


def _check_count(shape: tuple[int, ...], source: Source, asked: int | None) -> None:
    """Refuse labels that are not as many as the samples.

    Of samples that come one after the other no more are read than are ``asked`` for; the labels may then go on.
    """
    labels, samples = shape[0] if shape else 0, sum(part.count for part in source.parts)
    if labels < samples or (labels > samples and samples != asked):
        raise ModelError(f"{labels} labels for {samples} samples", "give one for each")


def _labels(answers: StoredArray | np.ndarray[Any, Any] | None, source: Source) -> Tensor | None:
    """Return the labels of the samples that are used."""
    if answers is None:
        return None
    if isinstance(answers, StoredArray):
        labels = np.concatenate(list(answers.rows(source.chosen, _READ)))
    else:
        labels = answers[list(source.chosen)]
    if labels.dtype.kind in "iub":
        return torch.from_numpy(labels.astype(np.int64)).reshape(len(labels), *labels.shape[1:])
    if labels.dtype.kind != "f" or not np.isfinite(labels).all():
        raise ModelError(f"labels of type {labels.dtype} cannot be learnt", "give class numbers, or finite numbers")
    return torch.from_numpy(labels.astype(np.float32))


def split(samples: Samples, held_out: float, seed: int) -> tuple[Samples, Samples]:
    """Return the training and the held-out part, by a random draw.

    Raises
    ------
    ModelError
        When there are too few samples for both.
    """
    unit = samples.batch or 1
    held = max(round(held_out * samples.count) // unit, 1) * unit
    if samples.count - held < unit:
        raise ModelError(f"{samples.count} samples are too few to train on and to hold some out", "give more")
    order = np.random.default_rng([seed, 0]).permutation(samples.count)
    return samples.take(np.sort(order[held:])), samples.take(np.sort(order[:held]))


@dataclass(frozen=True, slots=True)
class Order:
    """Which samples each step takes: every epoch all of them once, in its own random order.

    ``sizes`` holds the batch size of each epoch; what does not fill the last batch of an epoch is left out there.
    """

    count: int
    sizes: tuple[int, ...]
    seed: tuple[int, ...]

    @property
    def epoch_steps(self) -> tuple[int, ...]:
        """Number of steps of each epoch."""
        return tuple(max(self.count // size, 1) for size in self.sizes)

    @property
    def steps(self) -> int:
        """Number of steps in all."""
        return sum(self.epoch_steps)

    def ends(self) -> frozenset[int]:
        """Return the number of steps done at the end of each epoch."""
        return frozenset(np.cumsum(self.epoch_steps).tolist())

    def at(self, step: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the samples of a step, counted from 0."""
        for epoch, steps in enumerate(self.epoch_steps):
            if step < steps:
                order = np.random.default_rng([*self.seed, epoch]).permutation(self.count)
                return order[step * self.sizes[epoch] : (step + 1) * self.sizes[epoch]]
            step -= steps
        raise IndexError(step)


def order_of(samples: Samples, batches: Sequence[int], epochs: int, seed: tuple[int, ...]) -> Order:
    """Return the order of a phase: the batch sizes take equal shares of its epochs."""
    sizes = [min(samples.batch or size, samples.count) for size in batches]
    return Order(samples.count, tuple(sizes[epoch * len(sizes) // epochs] for epoch in range(epochs)), seed)
