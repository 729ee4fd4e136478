"""Fine-tuning: what it changes and what it leaves, that it gains, and never makes worse."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import onnxlr
from onnxlr.errors import ModelError, UsageError
from onnxlr.target import usable_cores
from onnxlr.training.augment import augmented, parse_augment
from onnxlr.training.balance import balance
from onnxlr.training.blocks import find_blocks, trainable
from onnxlr.training.executor import TorchGraph
from onnxlr.training.options import TrainOptions
from onnxlr.training.writeback import write_back
from onnxlr_passes.fidelity import differences
from tests.training.networks import classifier, images, rewritten
from tests.training.teacher_and_student import CHAINS, QUICK, STUDENT, TEACHER, arrays, changed, tune


@pytest.mark.parametrize("scheme", CHAINS)
def test_no_step_at_all_gives_the_same_bytes(scheme: str) -> None:
    student = rewritten(TEACHER, scheme, CHAINS[scheme])
    result = tune(student, epochs=0, block_epochs=0)
    assert result.model.SerializeToString(deterministic=True) == student.SerializeToString(deterministic=True)


def test_weights_go_back_in_whatever_field_they_were() -> None:
    student = onnx.ModelProto()
    student.CopyFrom(STUDENT)
    tensor = student.graph.initializer[0]
    values = onnx.numpy_helper.to_array(tensor)
    tensor.ClearField("raw_data")
    tensor.float_data.extend(values.ravel().tolist())
    graph = TorchGraph(student)
    same = write_back(student, None, {name: graph.weight(name) for name in graph.weights})
    assert same.SerializeToString(deterministic=True) == student.SerializeToString(deterministic=True)
    new = write_back(student, None, {tensor.name: graph.weight(tensor.name) * 2})
    assert np.array_equal(arrays(new)[tensor.name], values * 2)
    assert not new.graph.initializer[0].float_data
    assert differences(student, new, rewritten=[tensor.name]) == ()


@pytest.mark.parametrize("scheme", CHAINS)
def test_training_gains_and_changes_weights_only(scheme: str) -> None:
    student = rewritten(TEACHER, scheme, CHAINS[scheme])
    result = tune(student)
    assert result.summary.after.loss < 0.85 * result.summary.before.loss
    assert result.summary.blocks == 1
    moved = changed(student, result.model)
    assert moved
    assert differences(student, result.model, rewritten=moved) == ()
    feeds = images(64, seed=9)
    answers = [
        np.asarray(
            ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        )
        for model in (TEACHER, student, result.model)
    ]
    assert np.linalg.norm(answers[2] - answers[0]) < 0.95 * np.linalg.norm(answers[1] - answers[0])


def test_what_cannot_be_bettered_is_given_back() -> None:
    result = tune(TEACHER)
    assert result.model.SerializeToString(deterministic=True) == TEACHER.SerializeToString(deterministic=True)
    assert any("nothing is changed" in note for note in result.summary.notes)


def test_patience_waits_for_epochs_and_not_for_the_beginning() -> None:
    gained = tune(STUDENT, block_epochs=0, patience=1).summary
    assert [step for _, step, _ in gained.history][:2] == [0, 7]
    assert gained.after.loss < gained.before.loss
    ended = tune(TEACHER, block_epochs=0, epochs=6, patience=2).summary  # nothing betters it
    assert [step for _, step, _ in ended.history] == [0, 7, 14]


def test_a_rate_that_destroys_does_no_harm() -> None:
    result = tune(STUDENT, learning_rate=50.0, block_rate=50.0)
    assert result.summary.after.loss <= result.summary.before.loss


def test_the_same_run_gives_the_same_bytes_and_another_seed_others() -> None:
    one, two, other = tune(STUDENT), tune(STUDENT), tune(STUDENT, seed=1)
    assert one.model.SerializeToString() == two.model.SerializeToString()
    assert one.model.SerializeToString() != other.model.SerializeToString()


def test_blocks_alone_learn_the_activations_of_the_layer() -> None:
    student = rewritten(TEACHER, "basis", (4,))
    result = tune(student, epochs=0, block_epochs=6)
    assert changed(student, result.model) <= {*find_blocks(TorchGraph(student))[0].weights}
    x = torch.from_numpy(images(64, seed=9)["x"])
    wanted = TorchGraph(TEACHER)({"x": x}, ["c1"])["c1"]
    before, after = (TorchGraph(model)({"x": x}, ["c1"])["c1"] for model in (student, result.model))
    assert (after - wanted).norm() < 0.95 * (before - wanted).norm()


def test_labels_alone_and_mixed() -> None:
    data = images(256)
    labels = (data["x"].mean((1, 2, 3)) > 0).astype(np.int64)
    for teacher in (None, TEACHER):
        result = onnxlr.finetune(STUDENT, teacher=teacher, data=[data], labels=labels, options=QUICK, threads=1)
        assert result.summary.before.accuracy is not None
        assert result.summary.after.accuracy > result.summary.before.accuracy
        assert (result.summary.after.agreement is None) == (teacher is None)


def test_a_frozen_basis_never_changes() -> None:
    student = rewritten(TEACHER, "basis", (3,))
    basis = find_blocks(TorchGraph(student))[0].basis
    assert basis == "c1/lr0_basis_weight"
    frozen = tune(student, freeze_basis=True)
    assert basis not in changed(student, frozen.model)
    assert changed(student, frozen.model)
    assert basis in changed(student, tune(student).model)


def test_a_penalty_makes_the_basis_orthogonal() -> None:
    from onnxlr.training.losses import overlap

    student = rewritten(TEACHER, "separable-vh", (3,))
    with pytest.raises(UsageError, match="no basis chains"):
        tune(student, orthogonality=1.0)
    student = rewritten(TEACHER, "basis", (3,))
    name = find_blocks(TorchGraph(student))[0].basis
    tilted = onnx.ModelProto()
    tilted.CopyFrom(student)
    tensor = next(one for one in tilted.graph.initializer if one.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[1] += values[0]
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    losses = [
        float(overlap(torch.tensor(arrays(tune(tilted, orthogonality=w, epochs=8).model)[name]))) for w in (0.0, 10.0)
    ]
    assert losses[1] < 0.9 * losses[0]  # what is kept is what distils best, whatever its penalty


def test_batchnorm_is_trained_with_its_statistics_only_on_request() -> None:
    teacher = classifier(batchnorm=True)
    data = {"x": images(256)["x"] + 1.0}
    student = rewritten(teacher, "tucker2", (3, 3))
    for wanted in (False, True):
        options = TrainOptions(epochs=6, block_epochs=0, batch=(32,), learning_rate=0.02, batchnorm=wanted)
        result = onnxlr.finetune(student, teacher=teacher, data=[data], options=options, threads=1)
        assert ({"s", "o", "m", "v"} <= changed(student, result.model)) is wanted


@pytest.mark.parametrize("scheme", ["cp3", "cp4"])
def test_balanced_factors_have_equal_norms_and_compute_the_same(scheme: str) -> None:
    student = rewritten(TEACHER, scheme, CHAINS[scheme])
    graph = TorchGraph(student)
    (block,) = find_blocks(graph)
    assert block.is_cp
    rng = np.random.default_rng(0)
    scales = torch.from_numpy(rng.uniform(0.1, 10, graph.weight(block.factors[0]).shape[0]).astype(np.float32))
    with torch.no_grad():
        graph.weight(block.factors[0]).mul_(scales[:, None, None, None])
    x = torch.from_numpy(images(8)["x"])
    before = graph({"x": x})["y"].detach()
    balance(block, graph)
    assert torch.allclose(graph({"x": x})["y"], before, rtol=1e-4, atol=1e-4)
    norms = [graph.weight(name).flatten(1).norm(dim=1) for name in block.factors[:-1]]
    norms.append(graph.weight(block.factors[-1]).flatten(1).norm(dim=0))
    assert all(torch.allclose(one, norms[0], rtol=1e-4) for one in norms)


def test_what_is_trained() -> None:
    teacher = TorchGraph(classifier(batchnorm=True))
    assert trainable(teacher, batchnorm=False) == ("w0", "b0", "w1", "b1", "w2", "b2")
    assert set(trainable(teacher, batchnorm=True)) == {"w0", "b0", "w1", "b1", "w2", "b2", "s", "o"}


def test_of_tiles_only_the_filters_are_trained() -> None:
    student = rewritten(TEACHER, "winograd", (4, 1))
    graph = TorchGraph(student)
    assert set(trainable(graph, batchnorm=False)) == {"w0", "b0", "w2", "b2", "c1/lr0_tile_weight", "c1/lr0_tile_bias"}
    x = torch.from_numpy(images(8)["x"])
    assert torch.allclose(graph({"x": x})["y"], TorchGraph(TEACHER)({"x": x})["y"], rtol=1e-4, atol=1e-4)
    kept = tune(student, epochs=0, block_epochs=0).model
    assert not changed(student, kept)


def test_a_fixed_batch_is_kept_to() -> None:
    teacher = classifier(batch=4)
    student = rewritten(teacher, "tucker2", (3, 3))
    result = onnxlr.finetune(student, teacher=teacher, data=[images(64)], options=QUICK, threads=1)
    assert (result.summary.trained, result.summary.held_out) == (60, 4)
    assert result.summary.steps == 4 * 15


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"teacher": None}, UsageError, "nothing to learn from"),
        ({"teacher": classifier(batch=4)}, None, ""),
        ({"labels": np.arange(64)}, ModelError, "labels are not from 0 to 3"),
        ({"labels": np.zeros((64, 3))}, ModelError, "one whole number a sample"),
        ({"labels": "y"}, UsageError, "labels are read from an .npz file"),
        ({"data": [images(1)]}, ModelError, "too few"),
        ({"options": TrainOptions(freeze_basis=True)}, UsageError, "no basis chains"),
        ({"options": TrainOptions(augment="spin")}, UsageError, "'spin' is no augmentation"),
        (
            {"labels": np.zeros((64, 4)), "options": TrainOptions(augment="flip", loss="mse")},
            UsageError,
            "do not move with the images; leave out --augment",
        ),
        (  # one number a sample moves with it: that the classifier gives four is what is wrong
            {"labels": np.zeros((64, 1)), "options": TrainOptions(augment="flip", loss="mse")},
            ModelError,
            r"labels of shape \(1,\) for the output",
        ),
    ],
)
def test_what_cannot_be_done_is_said(given: dict[str, object], kind: type[Exception] | None, message: str) -> None:
    arguments = {"teacher": TEACHER, "data": [images(64)], "options": TrainOptions(epochs=0, block_epochs=0)} | given
    if kind is None:
        onnxlr.finetune(STUDENT, threads=1, **arguments)
        return
    with pytest.raises(kind, match=message):
        onnxlr.finetune(STUDENT, threads=1, **arguments)


def test_half_precision_is_refused() -> None:
    from onnx import TensorProto

    from tests.cli.small import network

    model = network(dtype=TensorProto.FLOAT16)
    data = {"x": np.zeros((8, 3, 16, 16), np.float16)}
    with pytest.raises(ModelError, match="is float16"):
        onnxlr.finetune(model, teacher=model, data=[data], options=QUICK, threads=1)


def test_augmentation_changes_images_by_the_seed() -> None:
    flip, crop = parse_augment("flip,crop:2")
    x = torch.arange(2 * 64, dtype=torch.float32).reshape(2, 1, 8, 8) + 1
    for change in (flip, crop):
        one, two = (change(x, np.random.default_rng(3)) for _ in range(2))
        assert torch.equal(one, two)
        assert one.shape == x.shape
        assert not all(torch.equal(change(x, np.random.default_rng(seed)), x) for seed in range(8))
    assert {tuple(flip(x, np.random.default_rng(seed))[0, 0, 0].tolist()) for seed in range(8)} == {
        tuple(x[0, 0, 0].tolist()),
        tuple(x[0, 0, 0].flip(0).tolist()),
    }
    moved = crop(x, np.random.default_rng(0))[0, 0]
    inside = moved[moved > 0]
    assert len(inside) >= 36
    assert set(inside.tolist()) <= set(x[0, 0].ravel().tolist())
    assert tune(STUDENT, augment="flip,crop:1", epochs=6).summary.after.loss < 1.0


def test_all_images_of_a_sample_move_alike() -> None:
    x = torch.arange(6 * 64, dtype=torch.float32).reshape(6, 1, 8, 8) + 1
    inputs = {"first": x, "scale": x[:, 0, 0, 0], "classes": x.long(), "second": 2 * x}
    changes = parse_augment("flip,crop:2,flip")
    moved = [augmented(inputs, changes, (0, step)) for step in (0, 1, 0)]
    for one in moved:
        assert torch.equal(one["second"], 2 * one["first"])
        assert one["scale"] is inputs["scale"]
        assert one["classes"] is inputs["classes"]
    assert torch.equal(moved[0]["first"], moved[2]["first"])
    assert not torch.equal(moved[0]["first"], moved[1]["first"])
    assert not torch.equal(moved[0]["first"], x)


@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
def test_two_threads_share_a_batch_and_give_the_same_bytes_each_time() -> None:
    def weights(threads: int) -> dict[str, np.ndarray]:
        result = onnxlr.finetune(
            rewritten(TEACHER, "cp4", (6,)),
            teacher=TEACHER,
            data=[images(250)],  # an odd batch: the parts are of 17 and 16 samples
            options=TrainOptions(epochs=2, block_epochs=0, batch=(33,), augment="flip,crop:1"),
            threads=threads,
        )
        return arrays(result.model)

    one, two, again = weights(1), weights(2), weights(2)
    for name, value in one.items():
        assert np.array_equal(two[name], again[name])
        np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=1e-4)
