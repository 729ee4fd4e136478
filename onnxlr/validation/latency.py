"""Interleaved latency of several models, with all a reader needs to judge or repeat the figures."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from onnxlr.cost.timing import Speedup, Timing, TimingOptions, speedup, time_interleaved
from onnxlr.errors import ModelError, UsageError
from onnxlr.model_io import runnable
from onnxlr.target import bind, graph_inputs, resolve_shapes, seeded_feeds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxlr.model_io import Model
    from onnxlr.target import Description, Target

_DEFAULT = TimingOptions()


@dataclass(frozen=True, slots=True)
class ModelLatency:
    """One model's latency: ``speedup`` is over the first model of the bench, None for that one itself.

    ``size`` is in bytes with the external files, ``sha256`` as ``Model`` has it.
    """

    model: str
    sha256: str
    size: int
    timing: Timing
    speedup: Speedup | None


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Latencies of models that took turns on one target; see ``to_json``.

    ``shapes`` are those of the inputs by name, filled from ``seed``.
    """

    models: tuple[ModelLatency, ...]
    target: Description
    shapes: Mapping[str, tuple[int, ...]]
    seed: int

    @property
    def unstable(self) -> bool:
        """Whether any of the latencies is too restless to be quoted."""
        return any(model.timing.unstable for model in self.models)

    def to_json(self) -> str:
        """Return the result as JSON text."""
        return json.dumps({"onnxlr_bench": 1, **asdict(self), "unstable": self.unstable}, indent=2) + "\n"


def bench(
    models: Sequence[Model],
    target: Target,
    *,
    seed: int = 0,
    options: TimingOptions = _DEFAULT,
    progress: Callable[[float], None] | None = None,
) -> BenchResult:
    """Time ``models`` in turns on the same seeded feeds.

    Parameters
    ----------
    models
        At least one; all must take the same inputs.
    progress
        Called with the share of the work done, 0 to 1.

    Raises
    ------
    ModelError
        A model takes other inputs than the first one, or does not run on the target.
    UsageError
        No model, or shapes of inputs that are open or conflict with a model.
    """
    if not models:
        raise UsageError("no model to time")
    names = [str(model.path) if model.path else f"model {index} in memory" for index, model in enumerate(models, 1)]
    shapes = resolve_shapes(models[0].proto, target)
    for name, model in zip(names[1:], models[1:], strict=True):
        _check_inputs(names[0], models[0], name, model, target)
    (feeds,) = seeded_feeds(models[0].proto, target, seed=seed)
    with ExitStack() as stack:
        sources = [stack.enter_context(runnable(model.proto, model.folder)) for model in models]
        sessions = [target.session(source, name=name) for source, name in zip(sources, names, strict=True)]
        runners = [bind(session, feeds) for session in sessions]
        timings = time_interleaved(runners, options, progress)
    latencies = tuple(
        ModelLatency(
            model=name,
            sha256=model.sha256,
            size=model.size,
            timing=timing,
            speedup=speedup(timings[0], timing) if index else None,
        )
        for index, (name, model, timing) in enumerate(zip(names, models, timings, strict=True))
    )
    return BenchResult(latencies, target.describe(), shapes, seed)


def _check_inputs(first_name: str, first: Model, name: str, model: Model, target: Target) -> None:
    """Refuse a model that cannot be run on the first one's feeds."""
    expected = {item.name: item for item in graph_inputs(first.proto)}
    got = {item.name: item for item in graph_inputs(model.proto)}
    if set(expected) != set(got) or any(expected[key].dtype != got[key].dtype for key in got):
        lists = [", ".join(map(str, items.values())) or "none" for items in (got, expected)]
        raise ModelError(f"{name} takes {lists[0]}; {first_name} takes {lists[1]}", "time models with the same inputs")
    shapes = [resolve_shapes(proto, target) for proto in (model.proto, first.proto)]
    if shapes[0] != shapes[1]:
        texts = [", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in of.items()) for of in shapes]
        raise ModelError(
            f"{name} takes inputs {texts[0]}; {first_name} {texts[1]}", "give both the same shapes with --shape"
        )
