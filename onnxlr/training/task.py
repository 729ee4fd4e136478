"""What a run works on: the networks, the samples, and how well the student does on those held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor

    from onnxlr.training.blocks import Block
    from onnxlr.training.data import Samples
    from onnxlr.training.executor import TorchGraph
    from onnxlr.training.losses import Criterion

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
    """Student, teacher (None: labels only), samples, and the rewritten blocks that the teacher has an answer for."""

    student: TorchGraph
    teacher: TorchGraph | None
    train: Samples
    held: Samples
    held_targets: Values | None
    criterion: Criterion
    blocks: tuple[Block, ...]

    def evaluate(self) -> Evaluation:
        """Run the student on the held-out part."""
        first = self.criterion.outputs[0]
        loss, agreed, right, count = 0.0, 0, 0, 0
        with torch.no_grad():
            for part in self.held.slices(_BATCH):
                samples = self.held.take(part)
                found = self.student(samples.inputs)
                targets = None if self.held_targets is None else {n: v[part] for n, v in self.held_targets.items()}
                loss += float(self.criterion(found, targets, samples.labels)) * samples.count
                count += samples.count
                if first.scores:
                    chosen = found[first.name].argmax(1)
                    agreed += 0 if targets is None else int((chosen == targets[first.name].argmax(1)).sum())
                    right += 0 if samples.labels is None else int((chosen == samples.labels).sum())
        return Evaluation(
            loss / count,
            agreed / count if first.scores and self.teacher is not None else None,
            right / count if first.scores and self.held.labels is not None else None,
        )


def answers(graph: TorchGraph, samples: Samples, names: Collection[str] = ()) -> Values:
    """Return what a network gives for all samples, without gradient."""
    with torch.no_grad():
        pieces = [graph(samples.take(part).inputs, names) for part in samples.slices(_BATCH)]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def fits_cache(example: Values, samples: Samples) -> bool:
    """Whether the outputs for all samples may be kept, going by those for a few."""
    each = sum(value.numel() * value.element_size() / len(value) for value in example.values() if value.ndim)
    return each * samples.count <= _CACHED
