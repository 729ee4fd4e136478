"""Every Conv, Gemm and MatMul case of ONNX's own backend tests, rewritten at full rank, gives what ONNX says."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnxlr.schemes.base import Layer, LayerShape
from onnxlr.schemes.registry import all_schemes
from onnxlr_passes.chain import Chain, Stage
from onnxlr_passes.decompose import Decompose
from onnxlr_passes.sites import locate
from tests.conformance.cases import Case, cases, run

SCHEMES = {scheme.name: scheme for scheme in all_schemes()}
CONV = {case.name: case for case in cases("conv")}
LINEAR = {case.name: case for case in cases("gemm", "matmul")}

# Relative to the largest output. float16 and bfloat16 factors carry 11 and 8 bits, and a chain rounds twice or thrice.
TOLERANCE = {TensorProto.FLOAT: 1e-4, TensorProto.DOUBLE: 1e-10, TensorProto.FLOAT16: 1e-2, TensorProto.BFLOAT16: 1e-1}

# How many of ONNX's cases each family must at least rewrite, with the onnx release the project started from.
LEAST = {"basis": 20, "projection": 15, "separable": 12, "tucker2": 15, "mixed": 3, "asym3d": 12, "cp3": 15, "cp4": 12}


def gap(found: list[np.ndarray], expected: tuple[np.ndarray, ...]) -> float:
    """Largest difference of any output, relative to the largest value expected there."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        difference = np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0.0)
        worst = max(worst, float(difference) / max(float(np.abs(other.astype(np.float64)).max(initial=0.0)), 1e-30))
    return worst


@cache
def rewritten(case: Case, name: str) -> tuple[onnx.ModelProto, float] | str:
    """The case's model with every site at full rank, and the tolerance of its type; or why there is none."""
    sites, skipped = locate(case.model)
    if not sites:
        return "; ".join(sorted({other.reason for other in skipped})) or "no Conv, Gemm or MatMul in it"
    scheme, chains, tolerance, reasons = SCHEMES[name], {}, 0.0, set()
    for site in sites:
        reason = scheme.refusal(LayerShape(site.out_channels, site.in_channels, site.geometry))
        if reason is not None:
            reasons.add(reason)
            continue
        layer = Layer(site.kernel(), site.geometry)
        chains[site.key] = scheme.solver(layer).chain(scheme.full_rank(layer.shape))
        tolerance = max(tolerance, TOLERANCE[site.dtype])
    if not chains:
        return "; ".join(sorted(reasons))
    return Decompose(chains)(case.model).model, tolerance


def check(case: Case, name: str) -> None:
    found = rewritten(case, name)
    if isinstance(found, str):
        assert found.strip()
        pytest.skip(found)
    model, tolerance = found
    onnx.checker.check_model(model)
    assert any("/lr0_" in node.name for node in model.graph.node)
    assert gap(run(model, case.feeds), case.expected) <= tolerance


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("case", CONV)
def test_conv(case: str, name: str) -> None:
    check(CONV[case], name)


@pytest.mark.parametrize("case", LINEAR)
def test_linear(case: str) -> None:
    check(LINEAR[case], "basis")


@pytest.mark.parametrize("case", sorted({**CONV, **LINEAR}))
def test_promotion_changes_nothing(case: str) -> None:
    one = {**CONV, **LINEAR}[case]
    if locate(one.model)[0]:
        assert gap(run(one.model, one.feeds), one.expected) <= TOLERANCE[TensorProto.FLOAT16]


def test_most_of_the_cases_are_rewritten(tally: list[str]) -> None:
    assert len(CONV) >= 60
    for name, scheme in SCHEMES.items():
        found = {case: rewritten(one, name) for case, one in CONV.items()}
        reasons = Counter(reason for reason in found.values() if isinstance(reason, str))
        done = len(found) - reasons.total()
        tally.append(f"{name:14}{done:3} Conv cases rewritten, {reasons.total():3} skipped")
        tally += [f"{'':16}{count:3} x {reason}" for reason, count in reasons.most_common()]
        assert done >= LEAST[scheme.family], f"{name} rewrote {done} only"
    linear = [rewritten(one, "basis") for one in LINEAR.values()]
    done = sum(not isinstance(one, str) for one in linear)
    tally.append(f"{'basis':14}{done:3} Gemm and MatMul cases rewritten, {len(linear) - done:3} skipped")
    assert done >= 10


def test_a_factor_one_percent_off_is_seen() -> None:
    case = CONV["test_Conv2d"]
    found = rewritten(case, "tucker2")
    assert not isinstance(found, str)
    site = locate(case.model)[0][0]
    layer = Layer(site.kernel(), site.geometry)
    chain = SCHEMES["tucker2"].solver(layer).chain(SCHEMES["tucker2"].full_rank(layer.shape))
    for broken in range(3):
        steps = tuple(
            (Stage(stage.suffix, stage.weight * (1.01 if i == broken else 1.0), stage.geometry),)
            for i, stage in enumerate(chain.stages)
        )
        model = Decompose({site.key: Chain(steps)})(case.model).model
        assert gap(run(model, case.feeds), case.expected) > 10 * found[1]
