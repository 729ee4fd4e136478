"""Evaluation data: where labels are found, that they stay with their samples, and what is refused in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from onnxlr.calibration import DataOptions
from onnxlr.errors import ModelError, OnnxlrError, UsageError
from onnxlr.evaluation import EvaluationData, open_evaluation
from onnxlr.evaluation.data import CLASS
from onnxlr.target import Input

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray[Any, Any]
X = Input("x", np.dtype(np.float32), ("n", 2))
PICTURE = Input("x", np.dtype(np.float32), ("n", 3, 4, 4))


def opened(path: Path, *inputs: Input, samples: int | None = None) -> EvaluationData:
    return open_evaluation(path, inputs or (X,), {}, DataOptions(samples=samples))


def gathered(data: EvaluationData, size: int = 3) -> tuple[Array, Array]:
    pairs = list(data.batches(size))
    assert all(set(feeds) == {"x"} for feeds, _ in pairs)
    labels = [label for _, label in pairs]
    return np.concatenate([feeds["x"] for feeds, _ in pairs]), np.concatenate(
        [one for one in labels if one is not None]
    )


@pytest.mark.parametrize("key", ["labels", "label", "y", "truth"])
def test_labels_are_found_by_their_key_or_as_the_only_other_one(tmp_path: Path, key: str) -> None:
    x, truth = np.arange(20.0).reshape(10, 2), np.arange(10)
    np.savez(tmp_path / "d.npz", **{"x": x, key: truth})
    data = opened(tmp_path / "d.npz")
    got, labels = gathered(data)
    assert data.label == key
    assert data.count == 10
    np.testing.assert_array_equal(got, x)
    np.testing.assert_array_equal(labels, truth)


def test_the_only_input_may_have_any_key_beside_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", pictures=np.ones((4, 2)), labels=np.arange(4))
    assert gathered(opened(tmp_path / "d.npz"))[0].shape == (4, 2)


def test_without_labels_there_are_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((4, 2)))
    data = opened(tmp_path / "d.npz")
    assert data.label is None
    assert [label for _, label in data.batches(2)] == [None, None]


def test_two_labels_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((4, 2)), labels=np.arange(4), y=np.arange(4))
    with pytest.raises(UsageError, match="several labels: labels, y"):
        opened(tmp_path / "d.npz")


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((4, 2)), labels=np.arange(3))
    with pytest.raises(ModelError, match=r"differ in number.* 4, .* 3"):
        opened(tmp_path / "d.npz")


def test_a_split_keeps_every_sample_once_with_its_label(tmp_path: Path) -> None:
    x = np.arange(40.0).reshape(20, 2)
    np.savez(tmp_path / "d.npz", x=x, labels=np.arange(20))
    chosen, held = opened(tmp_path / "d.npz").split(0.3, seed=1)
    assert (chosen.count, held.count) == (6, 14)
    parts = [gathered(part) for part in (chosen, held)]
    for got, labels in parts:
        np.testing.assert_array_equal(got, x[labels])
    assert sorted(np.concatenate([labels for _, labels in parts])) == list(range(20))
    again, _ = opened(tmp_path / "d.npz").split(0.3, seed=1)
    np.testing.assert_array_equal(gathered(again)[1], parts[0][1])
    other, _ = opened(tmp_path / "d.npz").split(0.3, seed=2)
    assert gathered(other)[1].tolist() != parts[0][1].tolist()


def test_a_share_that_leaves_a_part_empty_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((3, 2)), labels=np.arange(3))
    with pytest.raises(ModelError, match="3 evaluation samples cannot be split"):
        opened(tmp_path / "d.npz").split(0.05, seed=0)


@pytest.mark.parametrize(
    ("names", "classes"), [(("7", "12"), (7, 7, 12)), (("cat", "ant"), (1, 1, 0)), (("007", "x"), (0, 0, 1))]
)
def test_folders_of_images_name_their_classes(tmp_path: Path, names: tuple[str, str], classes: tuple[int, ...]) -> None:
    shades = {names[0]: (10, 20), names[1]: (30,)}
    for name, values in shades.items():
        (tmp_path / name).mkdir()
        for value in values:
            Image.new("RGB", (4, 4), (value, value, value)).save(tmp_path / name / f"{value}.png")
    data = open_evaluation(tmp_path, (PICTURE,), {}, DataOptions())
    assert data.label == CLASS
    got, labels = gathered(data, 2)
    found = {round(float(image.mean() * 255)): int(label) for image, label in zip(got, labels, strict=True)}
    assert found == dict(zip((10, 20, 30), classes, strict=True))
    assert gathered(data.split(0.5, 0)[1])[0].shape[1:] == (3, 4, 4)


def test_images_without_folders_have_no_labels(tmp_path: Path) -> None:
    for value in (1, 2):
        Image.new("RGB", (4, 4), (value,) * 3).save(tmp_path / f"{value}.png")
    assert open_evaluation(tmp_path, (PICTURE,), {}, DataOptions()).label is None


def test_data_that_do_not_fit_the_model_are_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((4, 3)), labels=np.arange(4))
    with pytest.raises(OnnxlrError, match="does not fit the model's input"):
        opened(tmp_path / "d.npz")
