"""Low-rank layers: exact round trips, gradients, initialisations, sizes, and what cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from onnxlr.training import layers
from onnxlr.training.layers import ioannou
from onnxlr.training.layers.geometry import geometry_of
from tests.training.every_layer import FULL, VARIANTS, dense, sample, scratch

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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


FITTED: dict[str, tuple[Any, dict[str, Any]]] = {
    "separable": (layers.SeparableConv2d, {"rank": 4}),
    "basis": (layers.BasisConv2d, {"rank": 3}),
    "tucker": (layers.TuckerConv2d, {"rank": (3, 4)}),
    "cp3": (layers.CPConv2d, {"rank": 6}),
    "cp4": (layers.CPConv2d, {"rank": 6, "form": "cp4"}),
    "composite": (layers.CompositeConv2d, {"filters": (2, 2, 1)}),
}


def correlated(seed: int) -> torch.Tensor:
    """Inputs (256, 6, 9, 10) of mean 1 that vary along two directions of the channels more than along the others."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.diag(torch.tensor([3.0, 2.0, 0.3, 0.2, 0.1, 0.1])) @ torch.randn(6, 6, generator=generator)
    return 1.0 + torch.einsum("nshw,st->nthw", torch.randn(256, 6, 9, 10, generator=generator), mixing)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", FITTED)
def test_factors_for_what_a_layer_sees_keep_more_of_it(name: str, bias: bool) -> None:
    kind, options = FITTED[name]
    conv = dense(6, 8, 3, 3, padding=1, bias=bias)
    seen, other = correlated(1)[:200], correlated(1)[200:]

    def lost(made: nn.Module) -> float:
        return float((made(other) - conv(other)).detach().square().mean())

    alone, fitted = kind.from_conv(conv, **options), kind.from_conv(conv, **options, inputs=seen)
    assert lost(fitted) < 0.9 * lost(alone)
    assert (fitted.to_conv().bias is None) == (not bias)


def test_inputs_must_be_those_of_the_layer() -> None:
    conv = dense(6, 8, 3, 3)
    for shape in ((4, 5, 9, 9), (6, 9, 9), (0, 6, 9, 9)):
        with pytest.raises(ValueError, match="are not those of"):
            layers.BasisConv2d.from_conv(conv, rank=2, inputs=torch.zeros(shape))


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
