"""A budget shared out over layers by what it does to the outputs: least measured error, within the budget, no guess."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

import onnxlr
from onnxlr import drafts, model_io
from onnxlr.allocate import allocate
from onnxlr.calibrate import Calibration, affordable, calibrate, fit_alone
from onnxlr.calibration.observe import Seen
from onnxlr.calibration.views import Views
from onnxlr.drafts import Drafts
from onnxlr.errors import BudgetError
from onnxlr.opening import calibration_data, data_options, shapes_of, target_of
from onnxlr.planning.candidates import enumerate_choices
from onnxlr.planning.rules import RULES
from onnxlr.planning.sharing import Sharing
from onnxlr.prepare import Prepared, Selection, prepare
from onnxlr.schemes.registry import by_family
from onnxlr.sensitivity import apart, sensitivities, tempered
from onnxlr_passes.decompose import Decompose
from tests.laws.graphs import count_macs
from tests.passes.one_conv import run
from tests.planning.test_budgets import network
from tests.test_refit import PADS, correlated, feeds, model_of, node, residual, weight

if TYPE_CHECKING:
    from onnxlr.target import Target


def images(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 8, 12, 12)).astype(np.float32)} for _ in range(count)]


def looked_at(model: onnx.ModelProto, data: list[dict[str, np.ndarray]]) -> tuple[Prepared, Target, Calibration]:
    loaded = model_io.load(model)
    options, _ = data_options(data, None, None, None, "4GB", 0)
    with calibration_data(loaded, data, {}, options) as source:
        assert source is not None
        target = target_of("cpu", 1, shapes_of(None, source, None))
        prepared = prepare(loaded, target, Selection(), simplify=False)
        return prepared, target, calibrate(prepared, None, target, source, 0, lambda _: None)


def sharing_of(prepared: Prepared, calibration: Calibration, share: float) -> Sharing:
    choices = enumerate_choices(
        prepared.workloads, by_family(("basis", "separable")), 8, calibration.views, lambda _: None
    )
    return Sharing(choices, prepared.other_macs, share)


def macs_of(sharing: Sharing, plan: dict[str, tuple[str, tuple[int, ...]]]) -> int:
    total = sharing.other_macs
    for of in sharing.choices:
        macs = {(c.scheme, c.ranks): c.macs for c in of.candidates}
        key = of.workload.site.key
        total += macs[plan[key]] if key in plan else of.workload.macs
    return total


def test_the_plan_with_the_least_error_on_held_out_data_is_taken() -> None:
    found = onnxlr.rewrite(network(), keep_macs=0.5, data=images(64, 0), validate=False, simplify=False)
    tried = found.summary.allocated
    assert tried is not None
    measured = [one.measured for one in tried.tried]
    assert len(measured) > 1
    assert len(set(measured)) > 1, "plans that are all alike prove nothing"
    assert tried.chosen == int(np.argmin(measured))
    assert all(0.2 < one.predicted / one.measured < 5.0 for one in tried.tried)
    assert count_macs(found.model) <= 0.5 * count_macs(network())


def test_the_plan_returned_is_the_one_that_was_measured() -> None:
    prepared, target, calibration = looked_at(network(), images(64, 0))
    choices, record = allocate(
        prepared, None, target, calibration, sharing_of(prepared, calibration, 0.5), lambda _: None
    )
    chains = fit_alone(prepared, calibration, choices)
    rewritten = Decompose(chains, None)(prepared.proto).model
    old, new = (
        np.concatenate([run(model, **batch)[0] for batch in calibration.held]) for model in (prepared.proto, rewritten)
    )
    error = np.linalg.norm(new - old) / np.linalg.norm(old)
    assert record.tried[record.chosen].measured == pytest.approx(error, rel=1e-3)
    others = [one.measured for index, one in enumerate(record.tried) if index != record.chosen]
    assert any(abs(one / error - 1.0) > 1e-2 for one in others), "another plan would have been noticed"


@pytest.mark.parametrize("after", [np.zeros((2, 3), np.float32), np.full((2, 4), np.nan, np.float32)])
def test_outputs_of_another_shape_or_without_values_are_infinitely_far_apart(after: np.ndarray) -> None:
    before = np.ones((2, 4), np.float32)
    assert apart([[before]], [[after]]) == inf
    assert apart([[before]], [[1.5 * before]]) == pytest.approx(0.5)
    assert apart([[before], [np.arange(3)]], [[before], [np.arange(4)]]) == 0.0, "only floating-point outputs count"


def test_a_branch_that_hardly_counts_is_hardly_sensitive() -> None:
    nodes = [
        node("Conv", ["x", "w0"], ["a"], "loud", **PADS),
        node("Conv", ["x", "w1"], ["b"], "quiet", **PADS),
        node("Mul", ["b", "little"], ["c"]),
        node("Add", ["a", "c"], ["y"]),
    ]
    little = onnx.numpy_helper.from_array(np.array(0.01, np.float32), "little")
    model = model_of(nodes, [weight("w0", 12, 6, 3, 3), weight("w1", 12, 6, 3, 3, seed=1), little], 6, 8, 8)
    prepared, target, calibration = looked_at(model, feeds(correlated(64, 0)))
    found = sensitivities(prepared, None, target, calibration, lambda _: None)
    loud, quiet = found["a"], found["b"]
    assert loud == pytest.approx(1.0, rel=0.2), "an output that is the layer's own loses what the layer loses"
    assert quiet == pytest.approx(1e-4, rel=0.5)


def test_weights_are_kept_within_bounds_of_the_median() -> None:
    found = tempered({"a": 1.0, "b": 4.0, "c": 1e6, "d": 0.0, "e": 1.0})
    assert found == {"a": 1.0, "b": 2.0, "c": 3.0, "d": 1.0 / 3.0, "e": 1.0}
    assert tempered({}) == {}


def test_sharing_keeps_to_the_budget_and_favours_layers_that_matter() -> None:
    prepared, _, calibration = looked_at(network(), images(48, 0))
    sharing = sharing_of(prepared, calibration, 0.5)
    for shares in (sharing.by(rule, {}) for rule in RULES):
        plan = {one.choice.site: (one.choice.scheme, one.choice.ranks) for one in shares}
        assert macs_of(sharing, plan) <= 0.5 * prepared.macs
    worst = max(sharing.by(RULES[0], {}), key=lambda share: share.error)
    favoured = worst.choice.site
    moved = sharing.by(RULES[0], {favoured: 100.0})
    errors = {one.choice.site: one.error for one in moved}
    assert errors.get(favoured, 0.0) < worst.error, "a layer that matters more keeps more"
    with pytest.raises(BudgetError, match="keeps as little as"):
        sharing_of(prepared, calibration, 0.001).check()


def test_drafts_are_made_once_and_forgotten_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, _, calibration = looked_at(network(), images(48, 0))
    sites = {workload.site.key: workload.site for workload in prepared.workloads}
    choices = [one.choice for one in sharing_of(prepared, calibration, 0.5).by(RULES[0], {})]
    known = Drafts(calibration.views)
    made = known.of(sites, choices, lambda _: None)
    again = known.of(sites, choices, lambda _: None)
    assert all(again[key] is chain for key, chain in made.items())
    monkeypatch.setattr(drafts, "ROOM", 0)
    anew = known.of(sites, choices, lambda _: None)
    other = known.of(sites, choices, lambda _: None)
    assert all(other[key] is not chain for key, chain in anew.items())
    for key, chain in made.items():
        for mine, yours in zip(chain.steps, other[key].steps, strict=True):
            assert all(np.array_equal(a.weight, b.weight) for a, b in zip(mine, yours, strict=True))


def test_wide_networks_are_tried_less_often() -> None:
    _, _, calibration = looked_at(network(), images(16, 0))
    assert affordable(calibration) == 8
    empty = np.zeros(0)
    wide = {f"w{i}": Seen(1, np.zeros((1, 4608)), empty, wide=False, own=empty, joined=None) for i in range(30)}
    assert affordable(replace(calibration, views=Views(wide, {}))) == 2


def test_replaying_the_plan_gives_the_same_bytes() -> None:
    data = images(48, 3)
    first = onnxlr.rewrite(network(), keep_macs=0.5, data=data, validate=False)
    again = onnxlr.rewrite(network(), plan=first.plan, data=data, validate=False)
    assert first.model.SerializeToString(deterministic=True) == again.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize(("count", "held"), [(7, 0), (8, 1), (64, 8), (300, 32)])
def test_of_few_samples_some_are_held_out_too(count: int, held: int) -> None:
    _, _, calibration = looked_at(residual(), feeds(correlated(count, 0)))
    assert sum(len(batch["x"]) for batch in calibration.held) == held
    assert calibration.samples + held == count
