"""Low-rank layers in networks: exports compute the same, and a rule or a plan replaces what it names."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from onnxlr.errors import UsageError
from onnxlr.planning.plan import Choice, Plan
from onnxlr.schemes.base import Layer
from onnxlr.schemes.registry import by_name
from onnxlr.training import layers
from onnxlr.training.layers import LowRankConv, apply_plan, convert, ioannou
from onnxlr_passes.decompose import Decompose
from onnxlr_passes.sites import locate
from tests.training.every_layer import FULL, sample, scratch

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def exported(model: nn.Module, folder: Path, x: torch.Tensor, *, dynamo: bool = True) -> onnx.ModelProto:
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(
            model.eval(), (x,), str(path), dynamo=dynamo, input_names=["x"], external_data=False, verbose=False
        )
    return onnx.load(path)


@pytest.mark.parametrize("name", scratch())
def test_torch_and_the_exported_graph_agree(name: str, tmp_path: Path) -> None:
    made, x = scratch()[name].eval(), sample(2, 4)
    model = exported(made, tmp_path, x)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    assert np.abs(np.asarray(found) - made(x).detach().numpy()).max() <= 1e-4


def conv_nodes(model: onnx.ModelProto) -> list[tuple[Any, np.ndarray]]:
    """Geometry and weight of every Conv."""
    return [(site.geometry, site.weight.array) for site in all_sites(model)]


def all_sites(model: onnx.ModelProto) -> list[Any]:
    sites, skipped = locate(model)
    every = [*sites, *(other.site for other in skipped if other.site is not None)]
    order = {node.output[0]: at for at, node in enumerate(model.graph.node)}
    return sorted(every, key=lambda site: order[site.output])


@pytest.mark.parametrize(
    ("name", "scheme", "ranks"),
    [
        ("separable-vh", "separable-vh", (18,)),
        ("basis", "basis", (8,)),
        ("tucker", "tucker2", (6, 8)),
        ("cp3", "cp3", (12,)),
        ("composite", "mixed", (8, 8, 8)),
    ],
)
def test_the_export_is_the_chain_of_the_graph_pass(
    name: str, scheme: str, ranks: tuple[int, ...], tmp_path: Path
) -> None:
    conv, made = FULL[name]()
    x = sample(2, conv.in_channels)
    plain = exported(conv, tmp_path, x)
    (site,) = locate(plain)[0]
    chain = by_name(scheme).solver(Layer(site.kernel(), site.geometry)).chain(ranks)
    passed = conv_nodes(Decompose({site.key: chain})(plain).model)
    own = conv_nodes(exported(made, tmp_path, x))
    assert len(own) == len(passed)
    for (geometry, weight), (expected, factor) in zip(own, passed, strict=True):
        assert geometry == expected
        assert np.array_equal(weight, factor)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    shared = nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), shared, nn.ReLU(), shared,
        nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), nn.Flatten(), nn.Linear(8 * 16, 10),
    )  # fmt: skip


def test_convert_replaces_by_a_rule() -> None:
    model = network()
    seen = []

    def rule(name: str, child: nn.Module) -> nn.Module | None:
        seen.append(name)
        if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
            return ioannou("lr-join", child.in_channels, child.out_channels)
        return None

    assert convert(model, rule) is model
    assert [type(model[at]) for at in (0, 3, 5)] == [layers.CompositeConv2d] * 3
    assert model[3] is model[5]
    assert isinstance(model[6][0], nn.Conv2d)
    assert "0.steps" not in seen
    assert model(torch.zeros(1, 3, 4, 4)).shape == (1, 10)
    assert isinstance(convert(nn.Conv2d(3, 8, 3), lambda name, _: nn.Identity() if not name else None), nn.Identity)


@pytest.mark.parametrize("dynamo", [True, False])
def test_a_plan_is_applied_to_the_model_it_was_exported_from(dynamo: bool, tmp_path: Path) -> None:
    model, x = network().eval(), torch.randn(1, 3, 4, 4)
    proto = exported(model, tmp_path, x, dynamo=dynamo)
    sites = {site.weight.tensor.name: site for site in locate(proto)[0]}
    shared = "3.weight" if "3.weight" in sites else "5.weight"  # a module used twice: exporters choose either name
    choices = []
    for weight, scheme, ranks in (
        (shared, "tucker2", (4, 4)),
        ("8.weight", "basis", (5,)),
        ("6.0.weight", "basis", (4,)),
    ):
        site = sites[weight]
        choices.append(Choice(site.key, site.label, scheme, ranks))
    applied = apply_plan(network().eval(), Plan(tuple(choices)), proto)
    assert isinstance(applied[3], LowRankConv)
    assert applied[3] is applied[5]
    assert isinstance(applied[8], nn.Sequential)
    lost = Choice("no such site", "conv9", "basis", (2,))
    with pytest.raises(UsageError, match="conv9: no module"):
        apply_plan(network(), Plan((lost,)), proto)
    named = apply_plan(network(), Plan((lost,)), proto, {"no such site": "0"})
    assert isinstance(named[0], LowRankConv)
    with pytest.raises(UsageError, match="cp3 does not apply"):
        apply_plan(network(), Plan((Choice("a", "a", "cp3", (2,)),)), proto, {"a": "6.0"})


def test_a_rewritten_export_and_an_applied_plan_give_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 5))
    x = torch.randn(2, 3, 4, 4)
    proto = exported(model, tmp_path, x)
    plan, chains = [], {}
    for site, (scheme, ranks) in zip(
        locate(proto)[0], [("separable-vh", (4,)), ("tucker2", (4, 5)), ("basis", (3,))], strict=True
    ):
        plan.append(Choice(site.key, site.label, scheme, ranks))
        chains[site.key] = by_name(scheme).solver(Layer(site.kernel(), site.geometry)).chain(ranks)
    session = ort.InferenceSession(
        Decompose(chains)(proto).model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(None, {"x": x.numpy()})
    found = apply_plan(model, Plan(tuple(plan)), proto)(x).detach().numpy()
    assert np.abs(found - np.asarray(expected)).max() <= 1e-5
