"""Samples for training and their labels: found by any name, one for each sample, and used with their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from onnxlr.calibration import DataOptions
from onnxlr.errors import ModelError
from onnxlr.training.data import read_samples
from tests.training.networks import images
from tests.training.teacher_and_student import STUDENT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("names", [("x", "y"), ("x", "target"), ("pixels", "target")])
def test_labels_are_found_by_whatever_name_they_have(names: tuple[str, str], tmp_path: Path) -> None:
    data = images(64)["x"]
    labels = (data.mean((1, 2, 3)) > 0).astype(np.int64)
    np.savez(tmp_path / "d.npz", **{names[0]: data, names[1]: labels})
    for samples in (None, 20):
        read = read_samples(STUDENT, tmp_path / "d.npz", names[1], DataOptions(samples))
        assert read.count == (samples or 64)
        index = [int(np.flatnonzero((data == one).all((1, 2, 3)))[0]) for one in read.inputs["x"].numpy()]
        assert read.labels is not None
        assert read.labels.tolist() == labels[index].tolist()


def test_the_only_input_may_be_its_own_label(tmp_path: Path) -> None:
    data = images(8)["x"]
    for name in ("x", "pixels"):
        np.savez(tmp_path / "d.npz", **{name: data})
        read = read_samples(STUDENT, tmp_path / "d.npz", name, DataOptions())
        assert read.labels is not None
        assert torch.equal(read.labels, read.inputs["x"])


@pytest.mark.parametrize("count", [0, 63, 65])
@pytest.mark.parametrize("samples", [None, 32])
def test_as_many_labels_as_samples_are_needed(count: int, samples: int | None, tmp_path: Path) -> None:
    data, labels = images(64), np.zeros(count, np.int64)
    np.savez(tmp_path / "d.npz", **data, target=labels)
    np.savez(tmp_path / "x.npz", **data)
    options = DataOptions(samples)
    for path, given in ((tmp_path / "d.npz", "target"), (tmp_path / "x.npz", labels)):
        with pytest.raises(ModelError, match=f"{count} labels for 64 samples; give one for each"):
            read_samples(STUDENT, path, given, options)
    if samples is None or count < samples:
        with pytest.raises(ModelError, match=f"{count} labels for {samples or 64} samples"):
            read_samples(STUDENT, [data], labels, options)


def test_of_feeds_no_more_labels_are_used_than_samples() -> None:
    labels = np.arange(64) % 4
    read = read_samples(STUDENT, [images(64)], labels, DataOptions(10))
    assert read.labels is not None
    assert read.labels.tolist() == labels[:10].tolist()
