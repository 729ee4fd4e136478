"""What a fine-tuning run is told to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxlr.errors import UsageError


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """A fine-tuning run; the same options, data and models give the same weights on the same machine and threads.

    Parameters
    ----------
    epochs, block_epochs
        Passes over the training part end to end, and before that block by block.
    batch
        Batch sizes; several take equal shares of the epochs, in order.
    learning_rate, block_rate
        Peak of the cosine schedule, end to end and block by block. With ``adam`` relative to the root mean square of
        each weight: 0.001 moves a weight by about a thousandth of its size a step.
    cp_rate, dense_rate
        Factors on both for the weights of CP chains (Lebedev et al. 2015: they need a small rate), and for those of
        layers that were not rewritten, which have the least to learn; 0 leaves them as they are.
    optimizer, weight_decay, clip
        ``adam`` or ``sgd`` (Nesterov, momentum 0.9), decoupled decay, and the largest norm of a step's gradient.
    held_out
        Share of the samples that is not trained on, and decides which weights are kept.
    patience
        Evaluations (one an epoch) without a gain after which to stop; 0: never.
    loss
        What is asked of the outputs: ``kl`` for class scores, ``mse`` (relative to the teacher's variance) otherwise;
        ``auto`` takes ``kl`` for outputs of two axes.
    temperature
        Of the soft targets (Hinton et al. 2015).
    label_weight
        Share of the labels in the loss, the teacher has the rest.
    activation_weight
        Weight of the rewritten layers' own outputs in the end-to-end loss, relative to the teacher's variance.
    freeze_basis
        Train only what follows the basis filters of ``basis`` chains (Tayyab and Mahalanobis 2019).
    orthogonality
        Weight of the penalty on basis filters that are not orthogonal (their successor, 2021).
    batchnorm
        Train BatchNormalization nodes, statistics included; otherwise they stay as they are.
    augment
        Changes of the training images, channels first, ``flip`` and ``crop:PIXELS`` separated by commas. All images of
        a sample move alike; labels do not, and must be one number a sample, as a class is.
    checkpoint_every
        Steps between checkpoints.

    Raises
    ------
    UsageError
        When a value makes no sense.
    """

    epochs: int = 10
    block_epochs: int = 1
    batch: tuple[int, ...] = (64,)
    learning_rate: float = 5e-4
    block_rate: float = 1e-3
    cp_rate: float = 0.5
    dense_rate: float = 0.1
    optimizer: Literal["adam", "sgd"] = "adam"
    weight_decay: float = 0.0
    clip: float = 5.0
    held_out: float = 0.1
    patience: int = 0
    loss: Literal["auto", "kl", "mse"] = "auto"
    temperature: float = 2.0
    label_weight: float = 0.5
    activation_weight: float = 0.0
    freeze_basis: bool = False
    orthogonality: float = 0.0
    batchnorm: bool = False
    augment: str = ""
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.batch or min(self.batch) < 1:
            raise UsageError(f"--batch {','.join(map(str, self.batch))}: sizes are 1 or more", "for example --batch 64")
        for name in (
            "epochs",
            "block_epochs",
            "patience",
            "dense_rate",
            "weight_decay",
            "activation_weight",
            "orthogonality",
        ):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} is below 0")
        for name in ("learning_rate", "block_rate", "cp_rate", "clip", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} is not above 0")
        if not 0 < self.held_out < 1:
            raise UsageError(f"--held-out {self.held_out} is not between 0 and 1", "for example --held-out 0.1")
        if not 0 <= self.label_weight <= 1:
            raise UsageError(f"--label-weight {self.label_weight} is not from 0 to 1", "for example --label-weight 0.5")
        if self.checkpoint_every < 1 or self.seed < 0:
            raise UsageError("--checkpoint-every is 1 or more, --seed 0 or more")
