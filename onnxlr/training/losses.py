"""What training minimises: the distance to the teacher's outputs, to labels, and to its activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from onnxlr.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from onnxlr.training.executor import TorchGraph
    from onnxlr.training.options import TrainOptions

_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Output:
    """An output and how it is compared.

    ``scores``: class scores along the last of two axes, compared by KL; ``softmax``: they are probabilities already.
    ``variance`` is the teacher's, which makes a squared error a share of it.
    """

    name: str
    scores: bool
    softmax: bool
    variance: float

    def logits(self, value: Tensor) -> Tensor:
        """Return class scores as unnormalised log-probabilities."""
        return value.clamp_min(_TINY).log() if self.softmax else value

    def distance(self, found: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """Return the mean distance of a batch to the teacher's."""
        if not self.scores:
            return functional.mse_loss(found, wanted) / self.variance
        target = torch.log_softmax(self.logits(wanted) / temperature, 1)
        reached = torch.log_softmax(self.logits(found) / temperature, 1)
        return functional.kl_div(reached, target, reduction="batchmean", log_target=True) * temperature**2


@dataclass(frozen=True, slots=True)
class Criterion:
    """The loss of outputs: ``label_weight`` of labels on the first one, the rest against the teacher on all."""

    outputs: tuple[Output, ...]
    temperature: float
    label_weight: float

    def __call__(
        self, found: Mapping[str, Tensor], teacher: Mapping[str, Tensor] | None, labels: Tensor | None
    ) -> Tensor:
        """Return the mean loss of a batch."""
        loss = torch.zeros(())
        if teacher is not None and self.label_weight < 1.0:
            parts = [one.distance(found[one.name], teacher[one.name], self.temperature) for one in self.outputs]
            loss = (1.0 - self.label_weight) * torch.stack(parts).sum()
        if labels is not None and self.label_weight > 0.0:
            loss = loss + self.label_weight * self._labelled(found[self.outputs[0].name], labels)
        return loss

    def _labelled(self, found: Tensor, labels: Tensor) -> Tensor:
        first = self.outputs[0]
        if first.scores:
            return functional.cross_entropy(first.logits(found), labels)
        return functional.mse_loss(found, labels.to(found.dtype)) / first.variance


def outputs_of(graph: TorchGraph, example: Mapping[str, Tensor], options: TrainOptions) -> tuple[Output, ...]:
    """Decide how each floating-point output is compared, from what the reference gives for some samples.

    Raises
    ------
    ModelError
        When there is no such output.
    UsageError
        When ``kl`` is asked of an output that holds no class scores.
    """
    producers = {name: node.op for node in graph.nodes for name in node.outputs}
    found = []
    for name in graph.outputs:
        value = example[name]
        if not value.is_floating_point():
            continue
        able = value.ndim == 2 and value.shape[1] > 1
        if options.loss == "kl" and not able:
            raise UsageError(f"--loss kl: the output '{name}' is not one of class scores", "give --loss mse")
        scores = able and options.loss != "mse"
        variance = float(value.double().var(unbiased=False)) if value.numel() else 0.0
        found.append(Output(name, scores, producers.get(name) == "Softmax", max(variance, _TINY)))
    if not found:
        raise ModelError("the model has no floating-point output to train for")
    return tuple(found)


def check_labels(labels: Tensor, output: Output, example: Tensor) -> None:
    """Refuse labels that the first output cannot be compared with.

    Raises
    ------
    ModelError
        With both shapes.
    """
    if output.scores:
        if labels.ndim != 1 or labels.is_floating_point():
            raise ModelError("labels of class scores are one whole number a sample", "or give --loss mse")
        if int(labels.min()) < 0 or int(labels.max()) >= example.shape[1]:
            raise ModelError(f"labels are not from 0 to {example.shape[1] - 1}, the classes of '{output.name}'")
    elif labels.shape[1:] != example.shape[1:]:
        raise ModelError(
            f"labels of shape {tuple(labels.shape[1:])} for the output '{output.name}' of {tuple(example.shape[1:])}"
        )


def variances(graph: TorchGraph, samples: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, float]:
    """Return the variance of each of the values ``names`` on some samples."""
    with torch.no_grad():
        found = graph(samples, names) if names else {}
    return {name: max(float(found[name].double().var(unbiased=False)), _TINY) for name in names}


def activation_loss(scales: Mapping[str, float], found: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """Return the sum over values of mean (y - y^)^2 / var y on one batch; ``scales`` holds the variances by name."""
    parts = [functional.mse_loss(found[name], teacher[name]) / scale for name, scale in scales.items()]
    return torch.stack(parts).sum()


def overlap(basis: Tensor) -> Tensor:
    """Return ||B B^T - I||^2 / r of the basis filters scaled to norm 1, (r, ...): 0 when they are orthogonal."""
    rows = functional.normalize(basis.flatten(1), dim=1)
    return (rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)).square().sum() / len(rows)
