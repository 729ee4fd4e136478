"""Measured time of every node of one model, from ONNX Runtime's own trace."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from onnxlr.cost.attribution import attribution, name_by_output
from onnxlr.errors import ModelError
from onnxlr.model_io import runnable
from onnxlr.target import run

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    import onnxruntime as ort

    from onnxlr.cost.attribution import Place
    from onnxlr.target import Feeds, Target

_KERNEL = "_kernel_time"
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})  # their kernels contain those of their bodies, which are counted
_US = 1e3  # microseconds in a millisecond


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """How long to profile: for ``budget_s`` seconds, from ``min_runs`` to ``max_runs`` runs, after ``warmup`` runs."""

    budget_s: float = 1.0
    min_runs: int = 5
    max_runs: int = 100
    warmup: int = 2


@dataclass(frozen=True, slots=True)
class NodeTime:
    """Time of one node, with what was fused into it, summed over the iterations of a body it stands in.

    ``output`` is its first output's name, unique within ``scope`` (``""``: the main graph); ``name`` may be empty.
    ``ms`` is the median over runs, ``share`` its part of the sum over all kernels.
    """

    scope: str
    output: str
    name: str
    op_type: str
    ms: float
    share: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Where a model's time goes.

    ``nodes`` are in the order they first ran; nodes fused into others or folded away are not there. ``other_ms`` is for
    kernels that stand for no node, such as changes of layout. ``kernels_ms`` is the sum of both, and ``run_ms`` the
    median run, which tracing makes a little longer than it is.
    """

    nodes: tuple[NodeTime, ...]
    other_ms: float
    kernels_ms: float
    run_ms: float
    runs: int

    def by_name(self) -> dict[str, float]:
        """Milliseconds by node name; a node without one goes by its first output."""
        times: dict[str, float] = defaultdict(float)
        for node in self.nodes:
            times[node.name or node.output] += node.ms
        return dict(times)

    def share(self, output: str, scope: str = "") -> float:
        """Share of the node whose first output is ``output``; 0 when it has no kernel of its own."""
        return sum(node.share for node in self.nodes if (node.scope, node.output) == (scope, output))


def profile(
    model: onnx.ModelProto,
    folder: Path | None,
    target: Target,
    feeds: Feeds,
    options: ProfileOptions = ProfileOptions(),
) -> Profile:
    """Run ``model`` under ONNX Runtime's profiler and tell the time of each node.

    Parameters
    ----------
    folder
        Where the model's external data is, if it has any.
    feeds
        One array per input.

    Raises
    ------
    ModelError
        The model does not run on the target, or the trace cannot be written.
    """
    places = attribution(model)
    with (
        tempfile.TemporaryDirectory(prefix="onnxlr-") as private,
        runnable(name_by_output(model), folder) as source,
    ):
        session = target.session(source, profile=Path(private, "trace"))
        _run_for(session, feeds, options)
        runs = split_runs(_events(Path(session.end_profiling())))[options.warmup :]
    if not runs:
        raise ModelError("ONNX Runtime's trace of the run is incomplete", "is there room in the temporary folder?")
    totals: list[dict[str, float]] = []
    found: dict[str, Place] = {}
    for events in runs:
        times: dict[str, float] = defaultdict(float)
        for event in events[1]:
            kernel, op_type = str(event["name"]).removesuffix(_KERNEL), str(event["args"]["op_name"])
            place = places.find(kernel, op_type)
            key = "" if place is None else f"{place.scope}\0{place.output}"
            if place is not None:
                found.setdefault(key, place)
            times[key] += event["dur"] / _US
        totals.append(times)
    return _summary(totals, found, [events[0] for events in runs])


def split_runs(events: list[dict[str, Any]]) -> list[tuple[float, list[dict[str, Any]]]]:
    """Cut a trace into runs: the duration in milliseconds of each, and its kernels in order, control flow left out."""
    kernels = [
        event
        for event in events
        if event.get("cat") == "Node"
        and event["name"].endswith(_KERNEL)
        and event["args"].get("op_name") not in _CONTROL_FLOW
    ]
    kernels.sort(key=lambda event: event["ts"])
    runs = []
    for whole in sorted((event for event in events if event["name"] == "model_run"), key=lambda event: event["ts"]):
        start, end = whole["ts"], whole["ts"] + whole["dur"]
        runs.append((whole["dur"] / _US, [kernel for kernel in kernels if start <= kernel["ts"] <= end]))
    return runs


def _summary(totals: list[dict[str, float]], found: Mapping[str, Place], run_ms: list[float]) -> Profile:
    """Take medians over runs."""
    times = {key: median(run.get(key, 0.0) for run in totals) for key in [*found, ""]}
    everything = sum(times.values())
    nodes = tuple(
        NodeTime(
            scope=place.scope,
            output=place.output,
            name=place.node.name,
            op_type=place.node.op_type,
            ms=times[key],
            share=times[key] / everything if everything else 0.0,
        )
        for key, place in found.items()
    )
    return Profile(nodes, times[""], everything, median(run_ms), len(run_ms))


def _run_for(session: ort.InferenceSession, feeds: Feeds, options: ProfileOptions) -> None:
    for _ in range(options.warmup):
        run(session, feeds)
    start = perf_counter()
    done = 0
    while done < options.min_runs or (done < options.max_runs and perf_counter() - start < options.budget_s):
        run(session, feeds)
        done += 1


def _events(path: Path) -> list[dict[str, Any]]:
    try:
        events = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("ONNX Runtime could not write the trace of the run", "is there room in TMPDIR?") from error
    return [event for event in events if isinstance(event, dict)]
