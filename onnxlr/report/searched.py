"""What a search tried and found, as values: the trials, the accuracy of the result, and each layer's time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxlr.evaluation import Estimate, Unit
    from onnxlr.planning.plan import Choice


@dataclass(frozen=True, slots=True)
class Baseline:
    """Milliseconds a run of the original, and within it of the layers that the runtime's trace shows, by site."""

    original_ms: float
    layers_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One rewritten layer within a whole model: milliseconds a run, dense, predicted and realised.

    ``dense_ms`` and ``realised_ms`` come from profiled runs of both models; they are None where the runtime's trace
    does not show the layer.
    """

    site: str
    node: str
    predicted_ms: float
    dense_ms: float | None
    realised_ms: float | None

    @property
    def pays(self) -> bool:
        """Whether the chain is faster than the layer was, in the whole model; True where that is not known."""
        return self.dense_ms is None or self.realised_ms is None or self.realised_ms < self.dense_ms


@dataclass(frozen=True, slots=True)
class Trial:
    """One plan, built, judged and timed on the target.

    Parameters
    ----------
    how
        The rule that chose it, in words.
    predicted
        Times faster than the original that the measured layers promised.
    faster, low, high
        Times faster than the original: the median of paired rounds and its 95 % interval.
    original_ms, latency_ms
        Median latencies of the original and of the new model, which took turns.
    unstable
        Whether the machine was too restless, after ``timings`` measurements.
    loss, loss_error
        What is lost, in the metric's unit (higher is worse), on the samples used to choose; and one standard error.
    likely
        What is probably lost, by the losses and shifts of all trials together.
    shift
        How far the outputs are from the original's: KL divergence in nats, or squared relative L2.
    met
        Whether all goals are met.
    layers, errors
        The times of the rewritten layers, and by site the errors that they were chosen by.
    """

    choices: tuple[Choice, ...]
    how: str
    predicted: float
    faster: float
    low: float
    high: float
    original_ms: float
    latency_ms: float
    unstable: bool
    timings: int
    macs: int
    size: int
    loss: float
    loss_error: float
    likely: float
    agreement: float | None
    shift: float
    met: bool
    layers: tuple[LayerTime, ...]
    errors: tuple[tuple[str, float], ...]

    @property
    def counted(self) -> float:
        """The worse of what was lost and what probably is: what a limit is held against."""
        return max(self.loss, self.likely)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Original and new model on the same samples, in the metric's unit; ``own`` where the metric brought others."""

    metric: str
    unit: Unit
    original: Estimate
    new: Estimate
    drop: Estimate
    samples: int
    agreement: float | None
    kl: float | None
    own: bool = False


@dataclass(frozen=True, slots=True)
class Protocol:
    """What models were judged by: on ``choosing`` samples while choosing, on ``held`` others at the end.

    Both are 0, and ``metric`` is the relative L2 error of the outputs, where there were no evaluation data. ``own``
    where the metric brought samples of its own: outputs alone were compared on these.
    """

    metric: str
    unit: Unit
    choosing: int
    held: int
    seed: int
    own: bool = False


@dataclass(frozen=True, slots=True)
class Searched:
    """A search from end to end; ``chosen`` is the index of the trial that was taken.

    ``max_loss`` is the limit on the loss, in the metric's unit, where one was set.

    ``reverted`` names layers whose chains did not pay in the whole model and went back to dense.
    """

    goals: str
    protocol: Protocol
    trials: tuple[Trial, ...]
    chosen: int
    most_trials: int
    max_loss: float | None
    reverted: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def trial(self) -> Trial:
        """The trial that was taken."""
        return self.trials[self.chosen]
