"""``onnxlr finetune``: what it writes and refuses; killed, it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import chdir
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from onnxlr.cli.main import app
from tests.cli.small import COMMAND, environment, refused, written
from tests.cli.small import onnxlr as command
from tests.training.networks import images
from tests.training.teacher_and_student import STUDENT, TEACHER

if TYPE_CHECKING:
    from pathlib import Path


def prepared(folder: Path) -> tuple[str, ...]:
    written(TEACHER, folder / "t.onnx")
    written(STUDENT, folder / "s.onnx")
    data = images(256)
    np.savez(folder / "d.npz", x=data["x"], y=(data["x"].mean((1, 2, 3)) > 0).astype(np.uint8))
    return ("finetune", "s.onnx", "--teacher", "t.onnx", "--data", "d.npz", "--epochs", "2", "--threads", "1")


def test_the_command(tmp_path: Path) -> None:
    arguments = prepared(tmp_path)
    done = command(*arguments, "--labels", "y", "--json", "r.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "held-out samples" in done.stdout
    assert done.stdout.endswith("wrote s.ft.onnx\nwrote r.json\n")
    assert {path.name for path in tmp_path.iterdir()} == {"t.onnx", "s.onnx", "d.npz", "s.ft.onnx", "r.json"}
    onnx.checker.check_model(str(tmp_path / "s.ft.onnx"), full_check=True)
    refused(tmp_path, 2, "s.ft.onnx exists", *arguments)
    refused(tmp_path, 2, "is the same file as the input", *arguments, "-o", "t.onnx", "--force")
    refused(tmp_path, 2, "--batch a is not a list", *arguments, "-o", "b.onnx", "--batch", "a")
    refused(tmp_path, 2, "has no array 'z'; its arrays: x, y", *arguments, "-o", "b.onnx", "--labels", "z")
    refused(tmp_path, 2, "same file", *arguments, "-o", "b.onnx", "--checkpoint", "b.onnx")


def test_no_output_takes_the_place_of_what_is_read_or_written(tmp_path: Path) -> None:
    arguments = prepared(tmp_path)
    refused(tmp_path, 3, "it is a directory", *arguments, "-o", ".")
    for name in ("s", "t"):
        model = onnx.load(tmp_path / f"{name}.onnx")
        onnx.save(
            model, tmp_path / f"{name}.onnx", save_as_external_data=True, location=f"{name}.onnx.data", size_threshold=0
        )
    refused(tmp_path, 2, "t.onnx.data is the same file as the input", *arguments, "-o", "t.onnx.data", "--force")
    (tmp_path / "o.onnx.data").hardlink_to(tmp_path / "t.onnx.data")
    refused(tmp_path, 2, "o.onnx.data is the same file as the input", *arguments, "-o", "o.onnx", "--force")


def test_the_checkpoint_stays_until_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is not done again because the report could not be written."""

    def full() -> str:
        raise OSError(28, "No space left on device")

    trained = SimpleNamespace(save=lambda out, **_: out, summary=SimpleNamespace(to_json=full))
    monkeypatch.setattr("onnxlr.training.api.finetune", lambda *_, **__: trained)
    arguments = prepared(tmp_path)
    (tmp_path / "c").touch()
    with chdir(tmp_path), pytest.raises(OSError, match="No space"):
        CliRunner().invoke(app, [*arguments, "--checkpoint", "c", "--json", "r.json"], catch_exceptions=False)
    assert (tmp_path / "c").exists()


def test_images_are_read_as_they_are_said_to_be(tmp_path: Path) -> None:
    written(TEACHER, tmp_path / "t.onnx")
    written(STUDENT, tmp_path / "s.onnx")
    (tmp_path / "pictures").mkdir()
    pixels = (np.random.default_rng(0).random((40, 8, 8)) * 255).astype(np.uint8)
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{index:02}.png")
    scaled = (pixels[:, None].astype(np.float32) - 100.0) / 50.0
    np.savez(tmp_path / "d.npz", x=scaled)
    few = ("finetune", "s.onnx", "--teacher", "t.onnx", "--epochs", "2", "--threads", "1")
    said = ("--image-scale", "255", "--image-mean", "100", "--image-std", "50", "--image-order", "GREY")
    for out, arguments in (
        ("a", ("--data", "d.npz")),
        ("b", ("--data", "pictures", *said)),
        ("c", ("--data", "pictures", "--image-order", "GREY")),
    ):
        done = command(*few, *arguments, "-o", f"{out}.onnx", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, same, other = ((tmp_path / f"{out}.onnx").read_bytes() for out in "abc")
    assert one == same != other
    refused(tmp_path, 2, "image options are for a folder", *few, "--data", "d.npz", *said)
    last = ("--data", "pictures", "--image-layout", "NHWC", "--augment", "flip", "-o", "d.onnx")
    refused(tmp_path, 2, "moves images with channels first", *few, *last)


def test_a_killed_command_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    arguments = (*prepared(tmp_path), "--epochs", "60", "--checkpoint-every", "5")
    assert command(*arguments, "-o", "whole.onnx", cwd=tmp_path).returncode == 0
    killed = [*COMMAND, *arguments, "-o", "killed.onnx"]
    for number in (signal.SIGKILL, signal.SIGTERM):
        child = subprocess.Popen(killed, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
        checkpoint = tmp_path / "killed.onnx.checkpoint"
        seen = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while child.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > seen):
            time.sleep(0.01)
        os.kill(child.pid, number)
        _, error = child.communicate()
        assert child.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
        assert ("interrupted" in error) == (number == signal.SIGTERM)
        assert not (tmp_path / "killed.onnx").exists()
    assert subprocess.run(killed, cwd=tmp_path, env=environment(), check=False).returncode == 0
    assert (tmp_path / "killed.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
