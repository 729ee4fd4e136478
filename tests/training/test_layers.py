"""Low-rank layers: exact round trips, gradients, exports, initialisations, and conversion of whole models."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from onnxlr.errors import UsageError
from onnxlr.planning.plan import Choice, Plan
from onnxlr.schemes.base import Layer
from onnxlr.schemes.registry import by_name
from onnxlr.training import layers
from onnxlr.training.layers import LowRankConv, apply_plan, convert, ioannou
from onnxlr.training.layers.geometry import geometry_of
from onnxlr_passes.decompose import Decompose
from onnxlr_passes.sites import locate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
VARIANTS = ("sf", "lr", "lr-2x", "lr-join", "lr-lde", "lr-join-wfull")


def dense(*sizes: int, **more: Any) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """A convolution of ``sizes`` (S, T, kernel...) with weights of float32."""
    torch.manual_seed(0)
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(sizes) - 2]
    return kind(sizes[0], sizes[1], sizes[2:], **more)


# From a trained layer at full rank.
FULL: dict[str, Callable[[], tuple[nn.Module, LowRankConv]]] = {
    "separable-vh": lambda: pair(dense(6, 8, 3, 3, padding=1, stride=2), layers.SeparableConv2d, rank=18),
    "separable-hv": lambda: pair(dense(4, 8, 3, 5, padding=(1, 2)), layers.SeparableConv2d, rank=20, order="hv"),
    "separable-3d": lambda: pair(dense(3, 4, 3, 2, 2), layers.SeparableConv3d, rank=9),
    "separable-grouped": lambda: pair(dense(6, 8, 3, 3, groups=2), layers.SeparableConv2d, rank=9),
    "basis": lambda: pair(dense(6, 8, 3, 3, padding="same"), layers.BasisConv2d, rank=8),
    "basis-trained": lambda: pair(dense(6, 8, 3, 3, dilation=2), layers.BasisConv2d, rank=8, frozen=False),
    "basis-1d": lambda: pair(dense(6, 8, 5), layers.BasisConv1d, rank=8),
    "basis-3d": lambda: pair(dense(2, 5, 2, 2, 2), layers.BasisConv3d, rank=5),
    "tucker": lambda: pair(dense(6, 8, 3, 3, padding=1, bias=False), layers.TuckerConv2d, rank=(6, 8)),
    "tucker-1d": lambda: pair(dense(6, 8, 5), layers.TuckerConv1d, rank=(6, 8)),
    "tucker-3d": lambda: pair(dense(2, 5, 2, 2, 2), layers.TuckerConv3d, rank=(2, 5)),
    "cp3": lambda: pair(dense(3, 4, 3, 3, padding=1), layers.CPConv2d, rank=12),
    "cp4": lambda: pair(dense(3, 4, 3, 3, padding=1), layers.CPConv2d, rank=27, form="cp4"),
    "cp-1d": lambda: pair(dense(3, 4, 5), layers.CPConv1d, rank=12),
    "cp-3d": lambda: pair(dense(2, 3, 2, 2, 2), layers.CPConv3d, rank=6),
    "composite": lambda: pair(dense(6, 8, 3, 3, padding=1), layers.CompositeConv2d, filters=(8, 8, 8)),
}


def pair(conv: nn.Module, kind: Any, **options: Any) -> tuple[nn.Module, LowRankConv]:
    return conv, kind.from_conv(conv, **options)


def scratch() -> dict[str, LowRankConv]:
    """One layer of every kind from scratch, from 4 to 8 channels."""
    torch.manual_seed(1)
    made = {
        "separable": layers.SeparableConv2d(4, 8, 3, padding=1, rank=3),
        "separable-norm": layers.SeparableConv2d(4, 8, 3, rank=3, batchnorm=True),
        "basis": layers.BasisConv2d(4, 8, 3, padding=1, rank=5),
        "basis-trained": layers.BasisConv2d(4, 8, 3, padding=1, rank=5, frozen=False, batchnorm=True),
        "cp3": layers.CPConv2d(4, 8, 3, padding=1, stride=2, rank=6),
        "cp4": layers.CPConv2d(4, 8, 3, padding=1, rank=6, form="cp4"),
        "tucker": layers.TuckerConv2d(4, 8, 3, padding=1, rank=(3, 5)),
    }
    return made | {name: ioannou(name, 4, 8) for name in VARIANTS}  # type: ignore[arg-type]


def sample(geometry_rank: int, channels: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, *(9, 10, 8)[:geometry_rank], generator=generator)


@pytest.mark.parametrize("name", FULL)
def test_a_trained_layer_and_back_at_full_rank(name: str) -> None:
    conv, made = FULL[name]()
    back = made.to_conv()
    scale = float(conv.weight.detach().abs().max())
    tolerance = 1e-3 if name.startswith("cp") else 1e-5  # CP is fitted, not solved
    assert float((back.weight - conv.weight).detach().abs().max()) <= tolerance * scale
    assert (back.bias is None) == (conv.bias is None)
    if conv.bias is not None:
        assert torch.equal(back.bias, conv.bias)
    x = sample(conv.weight.ndim - 2, conv.in_channels)
    assert torch.allclose(made(x), conv(x), atol=tolerance * 10)
    assert (back.stride, back.dilation, back.groups) == (conv.stride, conv.dilation, conv.groups)


@pytest.mark.parametrize("name", scratch())
def test_the_dense_equivalent_computes_the_same(name: str) -> None:
    made = scratch()[name].eval()
    x = sample(2, 4)
    assert torch.allclose(made.to_conv()(x), made(x), atol=1e-5)
    with torch.no_grad():
        next(made.convs()).weight.mul_(1.01)
    assert not torch.allclose(made.to_conv()(x), scratch()[name].eval()(x), atol=1e-4)


def test_a_batchnorm_between_is_folded_where_that_is_exact() -> None:
    made = layers.SeparableConv2d(4, 8, 3, rank=3, batchnorm=True)
    for seed in range(5):
        made(sample(2, 4, seed) + 1)
    made.eval()
    x = sample(2, 4)
    assert torch.allclose(made.to_conv()(x), made(x), atol=1e-5)
    padded = layers.SeparableConv2d(4, 8, 3, padding=1, rank=3, batchnorm=True)
    padded(sample(2, 4) + 1)
    with pytest.raises(ValueError, match="no equivalent"):
        padded.to_conv()


@pytest.mark.parametrize("name", scratch())
def test_gradients(name: str) -> None:
    made = scratch()[name].double().eval()
    x = sample(2, 4).double()[:1, :, :5, :5].requires_grad_()
    values = [value for value in made.parameters() if value.requires_grad]
    assert values

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        names = [key for key, value in made.named_parameters() if value.requires_grad]
        return torch.func.functional_call(made, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_frozen_basis_never_changes(optimizer: Any) -> None:
    model = nn.Sequential(layers.BasisConv2d(4, 8, 3, padding=1, rank=5), nn.ReLU())
    before = model[0].basis.clone()
    rest = {name: value.clone() for name, value in model.named_parameters()}
    steps = optimizer(model.parameters(), lr=0.1, weight_decay=0.1)
    for seed in range(3):
        steps.zero_grad()
        model.train()(sample(2, 4, seed)).square().sum().backward()
        steps.step()
    assert torch.equal(model[0].basis, before)
    assert all(not torch.equal(value, rest[name]) for name, value in model.named_parameters())
    assert set(rest) == {"0.steps.1.0.weight", "0.steps.1.0.bias"}
    assert "0.steps.0.0.weight" in model.state_dict()


def test_a_random_basis_is_orthogonal() -> None:
    for layer in (layers.BasisConv2d(4, 8, 3, rank=6), layers.BasisConv1d(8, 8, 3, groups=2, rank=4)):
        rows = layer.basis.flatten(1).reshape(layer.geometry.group, -1, layer.basis[0].numel())
        assert torch.allclose(
            rows @ rows.transpose(1, 2), torch.eye(rows.shape[1]).expand(len(rows), -1, -1), atol=1e-5
        )
    assert float(layers.overlap(layers.BasisConv2d(4, 8, 3, rank=6).basis)) < 1e-6


def test_composite_groups_share_one_sigma_or_do_not() -> None:
    torch.manual_seed(0)
    branches = ((1, 7, 300), (7, 1, 300), (7, 7, 100))
    for initialisation, sigmas in (
        ("shared", [(2 / (7 * 300 + 7 * 300 + 49 * 100)) ** 0.5] * 3),
        ("per-group", [(2 / (7 * 300)) ** 0.5, (2 / (7 * 300)) ** 0.5, (2 / (49 * 100)) ** 0.5]),
    ):
        made = layers.CompositeConv2d(
            16, 700, 7, padding=3, branches=branches, join=False, initialisation=initialisation
        )
        for conv, sigma in zip(made.convs(), sigmas, strict=True):
            assert float(conv.weight.detach().std()) == pytest.approx(sigma, rel=0.03)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variants(variant: Any) -> None:
    made = ioannou(variant, 16, 32, 3)
    shapes = [tuple(conv.weight.shape) for conv in made.convs()]
    expected = {
        "sf": [(32, 16, 3, 1), (32, 32, 1, 3)],
        "lr": [(16, 16, 1, 3), (16, 16, 3, 1)],
        "lr-2x": [(32, 16, 1, 3), (32, 16, 3, 1)],
        "lr-join": [(16, 16, 1, 3), (16, 16, 3, 1), (32, 32, 1, 1)],
        "lr-lde": [(32, 16, 1, 3), (32, 16, 3, 1), (32, 64, 1, 1)],
        "lr-join-wfull": [(12, 16, 1, 3), (12, 16, 3, 1), (8, 16, 3, 3), (32, 32, 1, 1)],
    }
    assert shapes == expected[variant]
    assert made(sample(2, 16)).shape == (2, 64 if variant == "lr-2x" else 32, 9, 10)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.sampled_from([1, 3, 5]))
def test_layers_are_of_the_size_of_a_convolution(stride: int, padding: int, dilation: int, kernel: int) -> None:
    conv = nn.Conv2d(4, 6, (kernel, 3), stride, padding, dilation)
    x = torch.zeros(1, 4, 13, 12)
    for made in (
        layers.BasisConv2d(4, 6, (kernel, 3), stride, padding, dilation, rank=2),
        layers.CPConv2d(4, 6, (kernel, 3), stride, padding, dilation, rank=2),
        layers.TuckerConv2d(4, 6, (kernel, 3), stride, padding, dilation, rank=(2, 2)),
    ):
        assert made(x).shape == conv(x).shape


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: layers.BasisConv2d.from_conv(dense(4, 4, 3, 3, padding=1, padding_mode="reflect"), rank=2),
            "only zeros",
        ),
        (lambda: layers.BasisConv2d(4, 4, 2, padding="same", rank=2), "pads more at the end"),
        (lambda: layers.SeparableConv2d.from_conv(dense(4, 4, 1, 3), rank=2), "does not apply"),
        (lambda: layers.BasisConv2d.from_conv(dense(4, 4, 3, 3), rank=9), "has no ranks"),
        (lambda: layers.CompositeConv2d(4, 8, 3, padding=1, branches=((1, 3, 4),), join=False), "join them"),
        (lambda: layers.CompositeConv2d(4, 8, 3, branches=((1, 3, 4),)), "no place in the middle"),
        (lambda: layers.TuckerConv2d(4, 8, (3, 3, 3), rank=(2, 2)), "one number for each of 2 axes"),
    ],
)
def test_what_cannot_be_is_said(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_line_that_torch_prints() -> None:
    assert repr(layers.CPConv2d(4, 8, 3, 2, 1, rank=6)).startswith(
        "CPConv2d(\n  4, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), channels_between=(6, 6)"
    )


def test_geometry_is_that_of_the_layer() -> None:
    conv = dense(4, 8, 3, 3, padding="same", dilation=2)
    assert geometry_of(conv).pads == ((2, 2), (2, 2))
    assert numpy_helper.to_array(numpy_helper.from_array(conv.weight.detach().numpy())).shape == (8, 4, 3, 3)
