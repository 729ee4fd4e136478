"""One plan tried in earnest: fitted, built, judged on the data, timed beside the original, and profiled."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxlr.build import build, build_alone
from onnxlr.calibrate import affordable
from onnxlr.cost.calm import time_at_best, time_at_rest
from onnxlr.cost.profile import ProfileOptions, profile
from onnxlr.cost.timing import TimingOptions, speedup
from onnxlr.cost.turns import clock_of
from onnxlr.errors import ModelError
from onnxlr.model_io import dense_size, runnable
from onnxlr.report.searched import Baseline, LayerTime, Trial
from onnxlr.target import bind, seeded_feeds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import onnx

    from onnxlr.build import Built
    from onnxlr.calibrate import Calibration
    from onnxlr.cost.profile import Profile
    from onnxlr.cost.timing import Timing
    from onnxlr.model_io import Model
    from onnxlr.planning.plan import Choice
    from onnxlr.prepare import Prepared
    from onnxlr.searching.table import Option, Table
    from onnxlr.searching.verify import Verifier
    from onnxlr.target import Feeds, Target
    from onnxlr_passes.sites import Site

TIMING = TimingOptions(budget_s=0.6, warmup_s=0.1)
PROFILING = ProfileOptions(budget_s=0.3)
_BUILDING = 0.9
"""The share of a trial that building the model is taken for."""
BLIND_LOOKS = 3
"""Plans that are sketched for a trial where chains are factorized from the weights alone: that takes as long."""


@dataclass(frozen=True, slots=True, eq=False)
class Workbench:
    """What trials need: the model, its statistics, the judge, and the original ready to run."""

    model: Model
    prepared: Prepared
    target: Target
    calibration: Calibration | None
    verifier: Verifier
    original: Callable[[], None]
    feeds: Feeds
    baseline: Baseline

    def build(self, choices: Sequence[Choice], progress: Callable[[float], None] = lambda _: None) -> Built:
        """Fit and write the chains."""
        return build(self.prepared, self.model.folder, self.target, self.calibration, choices, progress)

    @property
    def looks(self) -> int:
        """How many plans may be sketched for a trial: few where layers are wide, as fits then take long."""
        return BLIND_LOOKS if self.calibration is None else affordable(self.calibration)

    def sketch(self, choices: Sequence[Choice]) -> float:
        """Return how far the outputs shift with every chain fitted alone: quicker than a trial, which refits them."""
        if self.calibration is None:
            model = self.build(choices).proto
        else:
            model = build_alone(self.prepared, self.model.folder, self.calibration, choices)
        return self.verifier.judge(model).shift

    def attempt(
        self, table: Table, picks: Mapping[str, Option], how: str, progress: Callable[[float], None]
    ) -> tuple[Trial, Built]:
        """Try the plan of ``picks``; whether goals are met is left open (False). Tells what share of that is done."""
        choices = table.choices(picks)
        built = self.build(choices, lambda share: progress(_BUILDING * share))
        verdict = self.verifier.judge(built.proto)
        before, after, timings = self._time(built.proto)
        gain = speedup(before, after)
        saved = sum(one.workload.macs - one.macs for one in built.made)
        trial = Trial(
            choices=choices,
            how=how,
            predicted=table.original_ms / table.predicted_ms(picks),
            faster=gain.ratio,
            low=gain.low,
            high=gain.high,
            original_ms=before.median_ms,
            latency_ms=after.median_ms,
            unstable=before.unstable or after.unstable,
            timings=timings,
            macs=self.prepared.macs - saved,
            size=dense_size(built.proto, self.model.folder),
            loss=verdict.loss,
            loss_error=verdict.loss_error,
            likely=verdict.loss,
            agreement=verdict.agreement,
            shift=verdict.shift,
            met=False,
            layers=self._layers(built, picks, self.baseline.original_ms / gain.ratio),
            errors=tuple((site, option.error) for site, option in picks.items() if option.scheme is not None),
        )
        return trial, built

    def _time(self, model: onnx.ModelProto) -> tuple[Timing, Timing, int]:
        """Time both models in turns; again where the machine was restless, and the calmest counts."""
        with runnable(model, self.model.folder) as source:
            runners = (self.original, bind(self.target.session(source), self.feeds))
            (before, after), tries = time_at_rest(
                runners, TIMING, at_best=self.baseline.original_ms, clock=clock_of(self.target)
            )
        return before, after, tries

    def _layers(self, built: Built, picks: Mapping[str, Option], latency_ms: float) -> tuple[LayerTime, ...]:
        """Return each chain's time within the whole model."""
        sites = [one.workload.site for one in built.made]
        try:
            seen = profile(built.proto, self.model.folder, self.target, self.feeds, PROFILING)
        except ModelError:  # without a trace the layers' own times stay unknown
            realised: dict[str, float] = {}
        else:
            realised = layer_times(seen, sites, latency_ms)
        return tuple(
            LayerTime(
                site.key, site.label, picks[site.key].ms, self.baseline.layers_ms.get(site.key), realised.get(site.key)
            )
            for site in sites
        )


@contextmanager
def workbench(
    model: Model,
    prepared: Prepared,
    target: Target,
    calibration: Calibration | None,
    verifier: Verifier,
    seed: int,
    known: Baseline | None = None,
) -> Iterator[Workbench]:
    """Open the original; time and profile it where its latencies are not ``known``.

    Raises
    ------
    ModelError
        When the target cannot run the model.
    """
    (feeds,) = seeded_feeds(model.proto, prepared.shapes, seed=seed)
    sites = [workload.site for workload in prepared.workloads]
    with runnable(model.proto, model.folder) as source:
        original = bind(target.session(source), feeds)
        if known is None:
            timing = time_at_best(original, TIMING, clock_of(target))
            try:
                seen = profile(prepared.proto, model.folder, target, feeds, PROFILING)
                dense = layer_times(seen, sites, timing.median_ms)
            except ModelError:  # without a trace the layers' own times stay unknown
                dense = {}
            known = Baseline(timing.median_ms, dense)
        yield Workbench(model, prepared, target, calibration, verifier, original, feeds, known)


def layer_times(seen: Profile, sites: Sequence[Site], latency_ms: float) -> dict[str, float]:
    """Return the milliseconds of every site within a run of ``latency_ms``, its chain's nodes summed, by site key.

    Of the profiled run, which tracing and a busy machine make longer, only the shares count. What the trace does not
    show, such as a layer fused into another, is left out.
    """
    found: dict[str, float] = {}
    for site in sites:
        prefix = f"{site.output}/lr"
        times = [
            node.ms
            for node in seen.nodes
            if node.scope == site.scope and (node.output == site.output or node.output.startswith(prefix))
        ]
        if times and seen.kernels_ms > 0.0:
            found[site.key] = sum(times) * latency_ms / seen.kernels_ms
    return found
