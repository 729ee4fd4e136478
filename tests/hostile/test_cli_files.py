"""Files that are no models, data that is not theirs and outputs that cannot be written, met by the real command."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import time
from contextlib import chdir, contextmanager
from typing import TYPE_CHECKING

import onnx
import pytest
from typer.testing import CliRunner

from onnxlr.cli.main import app
from onnxlr.model_io import every_tensor, load
from tests.cli.small import COMMAND, QUICK, environment, files, network, onnxlr, refused, written
from tests.hostile.models import plain, write_external
from tests.hostile.test_model_files_out import small_disk  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def truncated(folder: Path) -> None:
    whole = network().SerializeToString()
    (folder / "m.onnx").write_bytes(whole[: len(whole) // 2])


def external(location: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder.parent / "secret").write_bytes(bytes(1 << 16))
        write_external(plain(), folder / "m.onnx", "weights.bin")
        data = (folder / "m.onnx").read_bytes()
        padded = location.replace("FOLDER", str(folder.parent))
        model = plain().FromString(data)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = padded
        (folder / "link").symlink_to("../secret")
        (folder / "m.onnx").write_bytes(model.SerializeToString())

    return build


INPUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda _: None, "m.onnx does not exist"),
    "truncated": (truncated, "is not an ONNX model, or was cut short"),
    "text": (lambda folder: (folder / "m.onnx").write_text("hello\n" * 99), "m.onnx"),
    "empty": (lambda folder: (folder / "m.onnx").touch(), "m.onnx is empty"),
    "directory": (lambda folder: (folder / "m.onnx").mkdir(), "m.onnx is a directory"),
    "missing data": (external("nowhere.bin"), "cannot read 'nowhere.bin'"),
    "absolute data": (external("FOLDER/secret"), "is an absolute path"),
    "data above": (external("../secret"), "leads out of"),
    "data behind a link": (external("link"), "leads out of"),
}


@pytest.mark.parametrize("command", ["rewrite", "inspect", "bench"])
@pytest.mark.parametrize(("build", "message"), INPUTS.values(), ids=INPUTS.keys())
def test_what_is_no_model(build: Callable[[Path], object], message: str, command: str, tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    build(folder)
    refused(folder, 3, message, command, "m.onnx")


def test_what_is_no_model_in_a_process_of_its_own(tmp_path: Path) -> None:
    truncated(tmp_path)
    refused(tmp_path, 3, "is not an ONNX model, or was cut short", "rewrite", "m.onnx", process=True)


def linked(folder: Path) -> None:
    (folder / "twin.bin").hardlink_to(folder / "weights.bin")


def behind_a_link(folder: Path) -> None:
    (folder / "weights.bin").rename(folder / "blob")
    (folder / "weights.bin").symlink_to("blob")


def without_length(folder: Path) -> None:
    model = plain().FromString((folder / "m.onnx").read_bytes())
    for tensor in model.graph.initializer:
        entries = [(entry.key, entry.value) for entry in tensor.external_data if entry.key != "length"]
        del tensor.external_data[:]
        for key, value in entries:
            tensor.external_data.add(key=key, value=value)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with (folder / "weights.bin").open("ab") as file:
        file.write(bytes(4096))


@pytest.mark.parametrize("change", [linked, behind_a_link, without_length])
def test_large_data_that_is_linked_or_says_no_length(
    change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data over the limit stay in their file, and every reader of it takes what the first one took."""
    monkeypatch.setitem(load.__kwdefaults__, "inline_limit", 0)
    write_external(plain(), tmp_path / "m.onnx")
    change(tmp_path)
    for command in (("inspect", "m.onnx"), ("rewrite", "m.onnx", "--rank", "9", "-o", "o.onnx", "--no-cache")):
        with chdir(tmp_path):
            result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        assert "cannot be read" not in result.stdout
    assert sum(tensor.dims[0] * tensor.dims[1] for tensor in every_tensor(onnx.load(tmp_path / "o.onnx"))) == 2 * 9 * 33


def test_large_data_that_vanish_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(load.__kwdefaults__, "inline_limit", 0)
    write_external(plain(), tmp_path / "m.onnx")

    def read_and_gone(*_: object) -> None:
        (tmp_path / "weights.bin").write_bytes(b"")

    monkeypatch.setattr("onnxlr.pipeline.check_finite", read_and_gone)
    with chdir(tmp_path):
        result = CliRunner().invoke(app, ["rewrite", "m.onnx", "--dry-run"], catch_exceptions=False)
    assert result.exit_code == 3
    assert re.fullmatch(
        r"onnxlr: to_y: the data of tensor 'w' cannot be read: .* are needed; leave .*\n", result.stderr
    )


def test_an_output_that_is_the_input_by_another_name(tmp_path: Path) -> None:
    written(network(), tmp_path / "m.onnx")
    (tmp_path / "link.onnx").symlink_to("m.onnx")
    (tmp_path / "twin.onnx").hardlink_to(tmp_path / "m.onnx")
    for out in ("link.onnx", "twin.onnx", "./m.onnx"):
        refused(tmp_path, 2, "is the same file as the input", "rewrite", "m.onnx", "-o", out, "--force")
        refused(tmp_path, 2, "is the same file as the input", "inspect", "m.onnx", "--json", out, "--force")


DATA = ("--data", "d.npz")
CLOBBERS = {
    "inspect": ("inspect", "m.onnx", "--json"),
    "bench": ("bench", "other.onnx", "m.onnx", "--json"),
    "rewrite's model": ("rewrite", "m.onnx", "-o"),
    "rewrite's report": ("rewrite", "m.onnx", "--json"),
    "rewrite's plan": ("rewrite", "m.onnx", "--dry-run", "--save-plan"),
    "search's front": ("search", "m.onnx", "-o"),
    "search's plot": ("search", "m.onnx", "--plot"),
    "finetune's model": ("finetune", "m.onnx", *DATA, "-o"),
    "finetune's report": ("finetune", "m.onnx", *DATA, "--json"),
    "finetune's checkpoint": ("finetune", "m.onnx", *DATA, "--checkpoint"),
    "the teacher": ("finetune", "other.onnx", "--teacher", "m.onnx", *DATA, "--json"),
}


@pytest.mark.parametrize("arguments", CLOBBERS.values(), ids=CLOBBERS.keys())
def test_an_output_over_the_weights_of_a_model_even_with_force(arguments: tuple[str, ...], tmp_path: Path) -> None:
    write_external(network(), tmp_path / "m.onnx")
    written(network(), tmp_path / "other.onnx")
    (tmp_path / "d.npz").touch()
    (tmp_path / "link.bin").symlink_to("weights.bin")
    for out in ("weights.bin", "link.bin"):
        refused(tmp_path, 2, f"{out} is the same file as the input .*weights.bin", *arguments, out, "--force")


def test_an_output_over_a_model_that_a_report_records(tmp_path: Path) -> None:
    write_external(network(), tmp_path / "m.onnx")
    report = ("--seconds", "0.1", "--threads", "1", "--json", "r.json")
    assert onnxlr("bench", "m.onnx", *report, cwd=tmp_path).returncode == 0
    again = ("bench", "--from", "r.json", "--force", "--json")
    for out in ("m.onnx", "weights.bin", "r.json"):
        refused(tmp_path, 2, f"{out} is the same file as the input", *again, out)


TWICE = {
    "report": ("rewrite", "m.onnx", "--json", "m.lr.onnx.data"),
    "plan": ("rewrite", "m.onnx", "-o", "new.onnx", "--save-plan", "./new.onnx.data"),
    "report of training": ("finetune", "m.onnx", *DATA, "--json", "m.ft.onnx.data"),
    "checkpoint": ("finetune", "m.onnx", *DATA, "--checkpoint", "m.ft.onnx.data"),
    "report and checkpoint": ("finetune", "m.onnx", *DATA, "--json", "m.ft.onnx.checkpoint"),
    "plot over trials": ("search", "m.onnx", "--plot", "m.front.json.state"),
}


@pytest.mark.parametrize("arguments", TWICE.values(), ids=TWICE.keys())
def test_an_output_over_what_the_command_writes_besides(arguments: tuple[str, ...], tmp_path: Path) -> None:
    write_external(network(), tmp_path / "m.onnx")
    (tmp_path / "d.npz").touch()
    refused(tmp_path, 2, f"are the same file {arguments[-1].removeprefix('./')}", *arguments)
    (tmp_path / arguments[-1]).write_text("old")
    refused(tmp_path, 2, f"are the same file {arguments[-1].removeprefix('./')}", *arguments, "--force")


@pytest.mark.parametrize("command", ["rewrite", "finetune"])
def test_weights_written_over_data(command: str, tmp_path: Path) -> None:
    write_external(network(), tmp_path / "m.onnx")
    (tmp_path / "o.onnx.data").write_text("precious")
    arguments = (command, "m.onnx", "-o", "o.onnx", "--data", "o.onnx.data", "--force")
    refused(tmp_path, 2, "o.onnx.data is the same file as the input", *arguments)


def test_an_output_in_no_folder(tmp_path: Path) -> None:
    written(network(), tmp_path / "m.onnx")
    refused(tmp_path, 3, "nowhere is not a folder", "rewrite", "m.onnx", "-o", "nowhere/o.onnx")
    refused(tmp_path, 3, "it is a directory", "rewrite", "m.onnx", "-o", ".")
    refused(tmp_path, 3, "it is a directory", "search", "m.onnx", "-o", ".")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    written(network(), tmp_path / "m.onnx")
    options = (*QUICK, "--no-validate", "--no-simplify")
    with largest_file(4096):
        refused(tmp_path, 3, "File too large.; free some space", "rewrite", "m.onnx", *options)


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:  # noqa: F811
    written(network(channels=96, layers=4), tmp_path / "m.onnx")
    (small_disk / "filler").write_bytes(bytes((1 << 20) - (1 << 16)))
    before = files(small_disk)
    out = small_disk / "o.onnx"
    options = (*QUICK, "--no-validate", "-o", out)
    refused(tmp_path, 3, "No space left on device.; free some space", "rewrite", "m.onnx", *options)
    assert files(small_disk) == before


@pytest.mark.parametrize("share", [0.15, 0.5, 0.8])
def test_control_c_in_the_middle(share: float, tmp_path: Path) -> None:
    """Interrupted while it imports, plans, or measures: exit 130, one line, and nothing has changed on the disk."""
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    temporary.mkdir()
    written(network(channels=128, layers=6), work / "m.onnx")
    before = files(work)
    command = [*COMMAND, "rewrite", "m.onnx", "--json", "r.json", "--save-plan", "p.json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=work, env=environment(TMPDIR=str(temporary)), text=True, **pipes) as child:
        # Past the start of the interpreter, where nothing can catch it; CPU time, for the machine may be busy.
        wait_for_cpu(child.pid, 2.0 + 6.0 * share)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=120)
    if child.returncode == 0:
        pytest.skip("it was done before the interruption")
    assert (child.returncode, out) == (130, "")
    assert err == "onnxlr: interrupted; no file was left half-written\n"
    assert files(work) == before
    assert not list(temporary.iterdir())


def wait_for_cpu(pid: int, seconds: float) -> None:
    """Wait until a process has used ``seconds`` of CPU time, or is gone."""
    ticks = seconds * os.sysconf("SC_CLK_TCK")
    while True:
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return
        if fields[0] == "Z" or int(fields[11]) + int(fields[12]) >= ticks:
            return
        time.sleep(0.01)
