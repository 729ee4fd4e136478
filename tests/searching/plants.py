"""A simulated network for searches: losses and latencies follow known formulas, so that the optimum is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxlr.build import Built
from onnxlr.planning.candidates import Workload
from onnxlr.planning.rules import RULES
from onnxlr.report.searched import LayerTime, Trial
from onnxlr.searching.allocation import allocate
from onnxlr.searching.course import Course
from onnxlr.searching.goals import Goals
from onnxlr.searching.ledger import Ledger, key_of
from onnxlr.searching.table import Option, Row, Table
from onnxlr_passes.extents import Extent
from onnxlr_passes.sites import locate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxlr.planning.plan import Choice

RANKS = (4, 8, 12, 16, 24, 32, 48)


def workloads(count: int) -> list[Workload]:
    """Convolutions from 64 to 64 channels, one behind the other."""
    nodes, weights, value = [], [], "x"
    for index in range(count):
        weights.append(numpy_helper.from_array(np.zeros((64, 64, 3, 3), np.float32), f"w{index}"))
        nodes.append(helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], f"conv{index}", pads=[1] * 4))
        value = f"c{index}"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64, 8, 8]) for name in ("x", value))
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return [Workload(site, Extent(1, (8, 8))) for site in locate(model)[0]]


def table(sharpness: Sequence[float]) -> Table:
    """Layers of 1 ms each, 1 ms besides; a layer's error falls the faster with its rank the greater its sharpness."""
    rows = []
    for workload, sharp in zip(workloads(len(sharpness)), sharpness, strict=True):
        dense = Option(None, (), 1.0, 36_864, 4 * 36_864, 0.0)
        options = tuple(
            Option("basis", (rank,), rank / 64, 576 * rank, 4 * 640 * rank, float(np.exp(-sharp * rank / 64)))
            for rank in RANKS
        )
        rows.append(Row(workload, dense, options))
    return Table(tuple(rows), 1.0 + len(rows), 0, 4 * 36_864 * len(rows))


@dataclass(eq=False)
class Plant:
    """Says what a plan loses, the sum of sensitivity x error^2, and how fast it is; ``slow`` layers take longer.

    A sketch shifts by what the plan loses, times ``faithless`` to a standard normal power of its own.
    """

    sensitivity: Mapping[str, float]
    original: Table
    slow: Mapping[str, float] = field(default_factory=dict)
    faithless: float = 1.2
    looks: int = 8
    tried: int = 0
    sketched: int = 0

    def build(self, choices: Sequence[Choice]) -> Built:
        del choices
        return Built(onnx.ModelProto(), (), {})

    def loss(self, choices: Sequence[Choice]) -> float:
        options = self.original.picks(choices)
        return sum(self.sensitivity.get(site, 1.0) * option.error**2 for site, option in options.items())

    def sketch(self, choices: Sequence[Choice]) -> float:
        self.sketched += 1
        off = np.random.default_rng(crc32(repr(key_of(choices)).encode())).standard_normal()
        return self.loss(choices) * self.faithless ** float(off)

    def attempt(
        self, now: Table, picks: Mapping[str, Option], how: str, progress: Callable[[float], None]
    ) -> tuple[Trial, Built]:
        progress(0.5)
        self.tried += 1
        choices = now.choices(picks)
        options = self.original.picks(choices)
        real = {site: option.ms * self.slow.get(site, 1.0) for site, option in options.items()}
        latency = self.original.original_ms - sum(1.0 - ms for ms in real.values())
        loss = self.loss(choices)
        faster = self.original.original_ms / latency
        details: dict[str, Any] = {
            "macs": sum(
                options[row.site].macs if row.site in options else row.dense.macs for row in self.original.rows
            ),
            "size": sum(o.size for o in options.values()),
        }
        trial = Trial(
            choices=choices,
            how=how,
            predicted=now.original_ms / now.predicted_ms(picks),
            faster=faster,
            low=0.99 * faster,
            high=1.01 * faster,
            original_ms=self.original.original_ms,
            latency_ms=latency,
            unstable=False,
            timings=1,
            loss=loss,
            loss_error=0.0,
            likely=loss,
            agreement=None,
            shift=loss,
            met=False,
            layers=tuple(LayerTime(site, site, picks[site].ms, 1.0, ms) for site, ms in real.items()),
            errors=tuple((site, option.error) for site, option in options.items()),
            **details,
        )
        return trial, self.build(choices)


def course(
    plant: Plant,
    goals: Goals,
    most: int = 16,
    ledger: Ledger | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Course:
    kept = Ledger() if ledger is None else ledger
    return Course(plant, plant.original, {}, (), goals, kept, most, progress, accuracy=False)


def optimum(plant: Plant, limit: float) -> float:
    """The greatest speed-up within the limit for who knows the sensitivities: exact at every budget."""
    now, low, high, best = plant.original, 1.0, plant.original.fastest, 1.0
    for _ in range(20):
        speed = (low * high) ** 0.5
        picks = allocate(now, RULES[0], plant.sensitivity, Goals(), now.original_ms / speed)
        loss = inf if picks is None else sum(plant.sensitivity[site] * o.error**2 for site, o in picks.items())
        if picks is not None and loss <= limit:
            low, best = speed, max(best, now.original_ms / now.predicted_ms(picks))
        else:
            high = speed
    return best
