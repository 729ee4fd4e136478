"""What a search is to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxlr.errors import UsageError

if TYPE_CHECKING:
    from onnxlr.evaluation import Unit
    from onnxlr.report.searched import Trial


@dataclass(frozen=True, slots=True)
class Goals:
    """Limits that all hold at once; None for no such limit.

    Parameters
    ----------
    max_drop
        Most that the metric may fall, in its unit: 0.01 is one point of an accuracy; dB for psnr.
    max_error
        Largest relative L2 error of the outputs, where there are no evaluation data.
    min_speedup
        Times faster than the original, at least.
    target_latency
        Milliseconds a run, at most.
    keep_macs
        Share of the multiply-adds, at most.
    max_size
        Megabytes (10^6 bytes) of the model, at most.

    Raises
    ------
    UsageError
        When a limit makes no sense, or two exclude each other.
    """

    max_drop: float | None = None
    max_error: float | None = None
    min_speedup: float | None = None
    target_latency: float | None = None
    keep_macs: float | None = None
    max_size: float | None = None

    def __post_init__(self) -> None:
        for option, value in (("--max-drop", self.max_drop), ("--max-error", self.max_error)):
            if value is not None and not value >= 0.0:
                raise UsageError(f"{option} {value:g} is below 0", f"for example {option} 0.01")
        for option, value in (("--target-latency", self.target_latency), ("--max-size", self.max_size)):
            if value is not None and not value > 0.0:
                raise UsageError(f"{option} {value:g} is not above 0", f"for example {option} 5")
        if self.min_speedup is not None and not self.min_speedup >= 1.0:
            raise UsageError(f"--min-speedup {self.min_speedup:g} is below 1", "for example --min-speedup 1.5")
        if self.keep_macs is not None and not 0.0 < self.keep_macs < 1.0:
            raise UsageError(
                f"--keep-macs {self.keep_macs:g} is not a share between 0 and 1", "for example --keep-macs 0.5"
            )
        if self.max_drop is not None and self.max_error is not None:
            raise UsageError(
                "--max-drop and --max-error exclude each other",
                "--max-drop is for labelled data, --max-error for none",
            )

    @property
    def searching(self) -> bool:
        """Whether models must be tried: keeping a share of the MACs alone is solved without."""
        limits = (self.max_drop, self.max_error, self.min_speedup, self.target_latency, self.max_size)
        return any(limit is not None for limit in limits)

    @property
    def loss(self) -> float | None:
        """The limit on what is lost, whichever is given."""
        return self.max_drop if self.max_drop is not None else self.max_error

    def check_data(self, *, evaluation: bool) -> None:
        """Refuse a limit on accuracy that the data cannot show.

        Raises
        ------
        UsageError
            ``--max-drop`` without evaluation data, or ``--max-error`` with them.
        """
        if self.max_drop is not None and not evaluation:
            raise UsageError("--max-drop needs data to measure a drop on", "give --eval FILE, or limit --max-error")
        if self.max_error is not None and evaluation:
            raise UsageError("--max-error is for the case without --eval", "limit the loss of the metric by --max-drop")

    def in_words(self, metric: str, unit: Unit) -> str:
        """Return the goals as a report says them."""
        words = []
        if self.max_drop is not None:
            words.append(f"{metric} at most {self.max_drop * unit.scale:g} {unit.drop_name}".rstrip() + " lower")
        if self.max_error is not None:
            words.append(f"outputs at most {self.max_error:.4g} off (relative L2)")
        if self.min_speedup is not None:
            words.append(f"at least {self.min_speedup:g}x faster")
        if self.target_latency is not None:
            words.append(f"at most {self.target_latency:g} ms")
        if self.keep_macs is not None:
            words.append(f"keep {self.keep_macs:.4g} of the MACs")
        if self.max_size is not None:
            words.append(f"at most {self.max_size:g} MB")
        return ", ".join(words)

    def accurate(self, loss: float) -> bool:
        """Whether a loss is within the limit; one that is not a number is not."""
        return loss == loss and (self.loss is None or loss <= self.loss + 1e-12)  # noqa: PLR0124 - NaN

    def fast(self, trial: Trial, macs: int) -> bool:
        """Whether a trial meets every goal but that on accuracy; ``macs`` are those of the original."""
        return (
            (self.min_speedup is None or trial.faster >= self.min_speedup)
            and (self.target_latency is None or trial.latency_ms <= self.target_latency)
            and (self.keep_macs is None or trial.macs <= self.keep_macs * macs)
            and (self.max_size is None or trial.size <= self.max_size * 1e6)
        )
