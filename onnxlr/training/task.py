"""What a run works on: the networks, the samples, and how well the student does on those held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from onnxlr.training.blocks import Block
    from onnxlr.training.data import Samples
    from onnxlr.training.executor import TorchGraph
    from onnxlr.training.losses import Criterion
    from onnxlr.training.workers import Workers

    Values = dict[str, Tensor]

_BATCH = 256
_CACHED = 1 << 30  # bytes of teacher outputs that are kept instead of computed again


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The held-out part: mean loss, and the shares of samples whose class is the teacher's, and the label's."""

    loss: float
    agreement: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Student, teacher (None: labels only), samples, and the rewritten blocks that the teacher has an answer for.

    ``scales``: the variance of the teacher's answer for each of these blocks.
    """

    student: TorchGraph
    teacher: TorchGraph | None
    train: Samples
    held: Samples
    held_targets: Values | None
    criterion: Criterion
    blocks: tuple[Block, ...]
    scales: dict[str, float]
    workers: Workers

    def evaluate(self) -> Evaluation:
        """Run the student on the held-out part."""
        scores = self.criterion.outputs[0].scores
        counts = self.workers.each(self._counts, self.held.slices(_BATCH))
        loss, agreed, right, count = map(sum, zip(*counts, strict=True))
        return Evaluation(
            loss / count,
            agreed / count if scores and self.teacher is not None else None,
            right / count if scores and self.held.labels is not None else None,
        )

    def _counts(self, part: slice) -> tuple[float, int, int, int]:
        """Return of some held-out samples the summed loss, how many agree and are right, and how many there are."""
        first, samples = self.criterion.outputs[0], self.held.take(part)
        targets = None if self.held_targets is None else {n: v[part] for n, v in self.held_targets.items()}
        with torch.no_grad():
            found = self.student(samples.inputs)
            loss = float(self.criterion(found, targets, samples.labels)) * samples.count
        if not first.scores:
            return loss, 0, 0, samples.count
        chosen = found[first.name].argmax(1)
        agreed = 0 if targets is None else int((chosen == targets[first.name].argmax(1)).sum())
        right = 0 if samples.labels is None else int((chosen == samples.labels).sum())
        return loss, agreed, right, samples.count


def answers(graph: TorchGraph, samples: Samples, workers: Workers) -> Values:
    """Return what a network gives for all samples, without gradient."""

    def piece(part: slice) -> Values:
        with torch.no_grad():
            found: Values = graph(samples.take(part).inputs)
        return found

    pieces = workers.each(piece, samples.slices(_BATCH))
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def fits_cache(example: Values, samples: Samples) -> bool:
    """Whether the outputs for all samples may be kept, going by those for a few."""
    each = sum(value.numel() * value.element_size() / len(value) for value in example.values() if value.ndim)
    return each * samples.count <= _CACHED
