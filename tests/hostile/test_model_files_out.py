"""Outputs that cannot be written, and interruptions: files are there whole or not at all."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxlr.errors import ModelError
from onnxlr.model_io import atomic, load, runnable, save, write_text
from onnxlr.model_io import save as save_function
from tests.hostile.models import everywhere, matmul, model, plain
from tests.hostile.test_model_files_in import unprivileged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


def big(mebibytes: int) -> onnx.ModelProto:
    values = np.zeros((mebibytes, 1 << 18), np.float32)
    return model([matmul()], [numpy_helper.from_array(values, "w")])


@pytest.mark.parametrize("external", [False, True])
def test_a_folder_that_may_not_be_written(external: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        with unprivileged(), pytest.raises(ModelError, match=r"Permission denied\); check the folder") as caught:
            save(plain(), folder / "o.onnx", external=external)
        assert "\n" not in str(caught.value)
        assert not list(folder.iterdir())
        folder.chmod(0o755)


def test_a_folder_that_may_not_be_entered() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0)
        with unprivileged(), pytest.raises(ModelError, match="Permission denied"):
            save(plain(), folder / "o.onnx")
        with unprivileged(), pytest.raises(ModelError, match="Permission denied"):
            write_text(folder / "plan.json", "{}")
        folder.chmod(0o755)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_may_not_grow(external: bool, force: bool, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    if force:
        out.write_text("old")
    with largest_file(1 << 20), pytest.raises(ModelError, match=r"File too large\); free some space"):
        save(big(2), out, external=external, force=force)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"] * force
    with largest_file(3 << 20):
        save(big(2), out, external=external, force=force)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("external", [False, True])
def test_a_full_disk(external: bool, small_disk: Path) -> None:
    save(plain(), small_disk / "fits.onnx", external=external)
    before = sorted(small_disk.iterdir())
    with pytest.raises(ModelError, match=r"No space left on device\); free some space") as caught:
        save(big(2), small_disk / "o.onnx", external=external)
    assert "\n" not in str(caught.value)
    assert sorted(small_disk.iterdir()) == before


def test_a_full_temporary_folder(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(ModelError, match="No space left on device"), runnable(big(2), None, limit=100):
        pass
    assert not list(small_disk.iterdir())


class InterruptAt:
    """Trace function that raises KeyboardInterrupt at the n-th line that saving runs, wherever that is."""

    FILES = frozenset({sys.modules[save_function.__module__].__file__, atomic.__file__})

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame: FrameType, event: str, _: Any) -> InterruptAt | None:
        if frame.f_code.co_filename not in self.FILES or frame.f_code.co_name == "draft":
            return None  # an interruption of the clean-up itself is beyond Python's means
        if event == "line":
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


def interrupted(line: int, proto: onnx.ModelProto, out: Path, *, external: bool, force: bool) -> bool:
    before = sys.gettrace()
    sys.settrace(InterruptAt(line))
    try:
        save(proto, out, external=external, force=force)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Interrupted right before it is closed, a file is closed when it is collected.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_an_interruption_at_any_line_leaves_all_or_nothing(external: bool, force: bool, tmp_path: Path) -> None:
    save(everywhere(), tmp_path / "o.onnx", external=external)
    new = contents(tmp_path)
    old = dict.fromkeys(new, b"old") if force else {}
    seen = set()
    for line in range(10_000):
        for path in tmp_path.iterdir():
            path.unlink()
        for name, content in old.items():
            (tmp_path / name).write_bytes(content)
        stopped = interrupted(line, everywhere(), tmp_path / "o.onnx", external=external, force=force)
        left = contents(tmp_path)
        assert left in (old, new), f"interrupted at line event {line}"
        seen.add((stopped, left == new))
        if not stopped:
            break
    assert not stopped
    assert line > 40
    assert seen >= {(True, False), (False, True)}


CHILD = """
import sys
from pathlib import Path
from onnxlr.model_io import load, save
model = load(sys.argv[1], inline_limit=0)
print("ready", flush=True)
try:
    while True:
        save(model.proto, Path(sys.argv[2]), folder=model.folder, external=True, force=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_control_c_while_a_large_model_streams_out(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    save(big(32), source / "m.onnx", external=True)
    command = [sys.executable, "-c", CHILD, str(source / "m.onnx"), str(out / "o.onnx")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        while not list(out.glob(".*")) and child.poll() is None:
            time.sleep(0.001)
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
    assert {path.name for path in out.iterdir()} in ({"o.onnx", "o.onnx.data"}, set())
    if list(out.iterdir()):
        assert load(out / "o.onnx").proto == load(source / "m.onnx").proto


def test_the_private_copy_goes_with_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    context = runnable(plain(), None, limit=100)
    context.__enter__()
    assert list(tmp_path.iterdir())
    interruption = KeyboardInterrupt()
    assert not context.__exit__(KeyboardInterrupt, interruption, None)
    assert not list(tmp_path.iterdir())


def test_a_file_created_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """The check comes first, but placing has the last word: another process may be quicker."""
    out = tmp_path / "o.onnx"
    with atomic.draft(out) as temporary:
        temporary.write_text("ours")
        out.write_text("theirs")
        with pytest.raises(FileExistsError):
            atomic.place([(temporary, out)], force=False)
    assert contents(tmp_path) == {"o.onnx": b"theirs"}


def test_the_first_of_two_files_is_taken_back_when_the_second_cannot_be_placed(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.write_text("theirs")
    with atomic.draft(first) as one, atomic.draft(second) as two:
        one.write_text("1")
        two.write_text("2")
        with pytest.raises(FileExistsError):
            atomic.place([(one, first), (two, second)], force=False)
    assert contents(tmp_path) == {"second": b"theirs"}
