"""A walk gives, piece by piece, what a whole run gives, and holds no more than it must."""

from __future__ import annotations

import gc
import tempfile
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxlr
from onnxlr.calibration import Memory, parse_memory
from onnxlr.calibration.memory import LEAST
from onnxlr.calibration.store import Batches, Shelf, Store, read
from onnxlr.calibration.walker import Walker
from onnxlr.errors import UsageError
from onnxlr.target import Target
from tests.passes.one_conv import run
from tests.test_refit import KERNEL, PADS, correlated, feeds, model_of, node, off, weight

if TYPE_CHECKING:
    from pathlib import Path

TARGET = Target(threads=1)
TENSORS = ("c0", "r0", "c1", "h", "s", "y")


def branching() -> onnx.ModelProto:
    """Two ways that meet, and an If whose bodies capture values of the outer graph, weights among them."""
    value = helper.make_tensor_value_info
    then = helper.make_graph(
        [node("Conv", ["r0", "w2"], ["inner"], **PADS), node("Add", ["inner", "c0"], ["t"])],
        "then",
        [],
        [value("t", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph([node("Identity", ["c1"], ["e"])], "else", [], [value("e", TensorProto.FLOAT, None)])
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], **PADS),
        node("Relu", ["c0"], ["r0"]),
        node("Transpose", ["w1t"], ["w1"], perm=[1, 0, 2, 3]),
        node("Conv", ["r0", "w1"], ["c1"], **PADS),
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"]),
        node("If", ["positive"], ["h"], then_branch=then, else_branch=other),
        node("Add", ["h", "c1"], ["s"]),
        node("Relu", ["s"], ["y"]),
    ]
    constants = [weight("w0", 6, 6, 3, 3), weight("w1t", 6, 6, 3, 3, seed=1), weight("w2", 6, 6, 3, 3, seed=2)]
    zero = onnx.numpy_helper.from_array(np.array(0, np.float32), "zero")
    return model_of(nodes, [*constants, zero], 6, "H", "W")


def whole(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in TENSORS)
    return dict(zip(TENSORS, run(shown, x=x), strict=True))


def batches() -> list[dict[str, np.ndarray]]:
    """Of two sizes, one of a single sample; the If takes either way."""
    rng = np.random.default_rng(0)
    shapes = ((3, 6, 8, 8), (1, 6, 8, 8), (2, 6, 5, 9))
    means = (2.0, -2.0, 2.0)
    return [{"x": (rng.standard_normal(s) + m).astype(np.float32)} for s, m in zip(shapes, means, strict=True)]


@pytest.mark.parametrize("limit", [Memory(), Memory(LEAST)])
def test_pieces_are_what_the_whole_gives(limit: Memory) -> None:
    model, data = branching(), batches()
    walker = Walker(model, None, TARGET, data, limit)
    expected = [whole(model, batch["x"]) for batch in data]
    for name in TENSORS:
        walker.advance([name])
        for i, one in enumerate(expected):
            np.testing.assert_allclose(walker.known[name][i], one[name], rtol=1e-5, atol=1e-5)
            assert not np.allclose(walker.known[name][i] * 1.01, one[name], rtol=1e-5, atol=1e-5)


def test_only_what_is_read_later_is_kept() -> None:
    walker = Walker(branching(), None, TARGET, batches(), Memory())
    assert walker.needs("s") >= {"c0", "r0", "c1", "h", "s"}
    walker.advance(["c1"])
    assert set(walker.known) == {"x", "c0", "r0", "c1"}, "r0 and c0 are captured by the If's bodies"
    walker.hold = {"r0"}
    walker.advance(["h"])
    assert set(walker.known) == {"r0", "c1", "h"}
    walker.hold = set()
    walker.advance(["y"])
    assert set(walker.known) == {"y"}
    assert walker.needs("y") == set()


def test_an_outcome_is_what_the_whole_gives_and_leaves_the_walk_where_it_is() -> None:
    model, data = branching(), batches()
    walker = Walker(model, None, TARGET, data, Memory())
    walker.advance(["r0"])
    before = set(walker.known)
    y, r0 = walker.outcome(["y", "r0"], {})
    assert set(walker.known) == before
    for i, batch in enumerate(data):
        one = whole(model, batch["x"])
        np.testing.assert_allclose(y[i], one["y"], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(r0[i], walker.known["r0"][i])
    walker.advance(["y"])
    np.testing.assert_array_equal(walker.known["y"][2], y[2])


def test_a_store_beyond_its_limit_is_on_disk_and_makes_room_again() -> None:
    arrays = [np.full((10, 10), i, np.float32) for i in range(5)]
    store = Store(900)
    shelf = Shelf(store)
    for array in arrays:
        shelf.append(array)
    assert store.held == 800
    assert all(np.array_equal(shelf[i], array) for i, array in enumerate(arrays))
    assert shelf[1:3][1].dtype == np.float32
    shelf.clear()
    assert store.held == 0
    kept = Batches.of([{"x": array, "n": np.arange(3)} for array in arrays], Store(500))
    assert len(kept) == 5
    assert [float(batch["x"][0, 0]) for batch in kept.only([4, 1])] == [4.0, 1.0]
    assert np.array_equal(kept[4]["n"], np.arange(3))


def test_what_is_kept_outlives_its_store_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    array = np.arange(12.0).reshape(3, 4)
    kept = Store(0).keep(array)
    assert not isinstance(kept, np.ndarray)
    assert np.array_equal(read(kept), array)
    assert list(tmp_path.iterdir())
    del kept
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_amounts_of_memory() -> None:
    assert [parse_memory(text) for text in ("4GB", "512 mb", "1.5GB", "70000000")] == [
        4 * 10**9,
        512 * 10**6,
        1_500_000_000,
        70_000_000,
    ]
    for wrong in ("", "4 apples", "-1GB", "GB"):
        with pytest.raises(UsageError, match="--memory"):
            parse_memory(wrong)
    with pytest.raises(UsageError, match="at least 64MB"):
        Memory(10**6)


def test_the_memory_given_changes_no_fit_but_of_wide_layers() -> None:
    """These layers are not wide; only where things are kept differs."""
    model = model_of([node("Conv", ["x", "w"], ["y"], "conv", **PADS)], [KERNEL], 6, 8, 8)
    data = feeds(correlated(40, 0))
    made = [
        onnxlr.rewrite(model, rank=3, scheme="basis", data=data, memory=m, threads=1, validate=False)
        for m in ("64MB", "4GB")
    ]
    first, second = (one.model.SerializeToString(deterministic=True) for one in made)
    assert first == second


@pytest.mark.parametrize(("scheme", "rank"), [("basis", 6), ("projection", 24), ("separable", 24), ("tucker2", 24)])
def test_a_wide_layer_is_fitted_from_its_rows(scheme: str, rank: int) -> None:
    """D = 96 x 9 = 864 columns would take more than 64 MB allow."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((96, 8))

    def images(count: int, seed: int) -> np.ndarray:
        small = np.random.default_rng(seed).standard_normal((count, 8, 4, 4)).repeat(3, axis=2).repeat(3, axis=3)
        return np.einsum("cd,ndhw->nchw", mix, small).astype(np.float32) + np.float32(0.5)

    model = model_of([node("Conv", ["x", "w"], ["y"], "wide", **PADS)], [weight("w", 24, 96, 3, 3)], 96, 12, 12)
    data, unseen = feeds(images(24, 1)), images(8, 2)
    blind = onnxlr.rewrite(model, scheme=scheme, rank=rank, threads=1, validate=False, simplify=False)
    fits = [
        onnxlr.rewrite(model, plan=blind.plan, data=data, memory=memory, threads=1, validate=False, simplify=False)
        for memory in ("64MB", "4GB")
    ]
    errors = [off(model, one.model, unseen) for one in (blind, *fits)]
    assert errors[1] < 0.8 * errors[0], errors
    assert errors[1] < 1.5 * errors[2] + 0.03, errors
    planned = onnxlr.rewrite(
        model,
        scheme=scheme,
        keep_macs=0.6,
        data=data,
        memory="64MB",
        threads=1,
        validate=False,
        dry_run=True,
        simplify=False,
    )
    assert planned.plan.choices


def test_a_kernel_of_65536_columns_fits_in_little_memory() -> None:
    """Its covariance would take 34 GB."""
    model = model_of([node("Conv", ["x", "w"], ["y"], "huge")], [weight("w", 4, 1024, 8, 8)], 1024, 10, 10)
    x = np.random.default_rng(0).standard_normal((2, 1024, 10, 10)).astype(np.float32)
    for scheme, rank in (("basis", 2), ("projection", 4), ("tucker2", 3)):
        found = onnxlr.rewrite(
            model, scheme=scheme, rank=rank, data=[{"x": x}], memory="128MB", threads=1, validate=False, simplify=False
        )
        assert off(model, found.model, x) < 1.0


@pytest.mark.parametrize("count", [1, 2])
def test_a_sample_or_two_do(count: int) -> None:
    model = model_of([node("Conv", ["x", "w"], ["y"], "conv", **PADS)], [KERNEL], 6, 8, 8)
    x = correlated(count, 3)
    found = onnxlr.rewrite(model, scheme="basis", rank=4, data=feeds(x), threads=1, validate=False, simplify=False)
    assert off(model, found.model, x) < 0.9


def test_samples_of_several_sizes_are_fitted_to() -> None:
    nodes = [node("Conv", ["x", "w"], ["c"], "conv", **PADS), node("GlobalAveragePool", ["c"], ["y"])]
    model = model_of(nodes, [KERNEL], 6, "H", "W", out=4)
    data = []
    for i, x in enumerate(correlated(72, 4)):
        data.append({"x": x[None, :, : 8 - i // 24]})
    size = {"x": (1, 6, 8, 8)}
    blind = onnxlr.rewrite(model, scheme="basis", rank=3, shapes=size, threads=1, validate=False, simplify=False)
    found = onnxlr.rewrite(model, plan=blind.plan, data=data, threads=1, simplify=False)
    assert found.summary.measured is not None
    unseen = correlated(16, 5)[:, :, :5]
    assert off(model, found.model, unseen) < 0.7 * off(model, blind.model, unseen)
