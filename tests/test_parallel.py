"""Layers side by side: in other processes where that pays, the same bytes, and none of them left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from time import monotonic, sleep

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import onnxlr
from onnxlr import parallel
from onnxlr.errors import ModelError, UsageError
from onnxlr.parallel import LARGE, side_by_side, working
from tests.test_refit import correlated, feeds, residual


def same(item: int) -> int:
    return item


def where(item: int) -> tuple[int, int, list[int]]:
    """Say what was given, in which process, and how many threads BLAS has there."""
    np.eye(2) @ np.eye(2)
    return item, os.getpid(), [library["num_threads"] for library in threadpool_info()]


def fail_at_three(item: int) -> int:
    if item == 3:
        raise ValueError("three")
    return item


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start processes without waiting to see whether they pay."""
    monkeypatch.setattr(parallel, "SOON", 0.0)


@pytest.mark.usefixtures("at_once")
def test_results_come_in_order_from_other_processes_that_end_with_the_work() -> None:
    items = [3, 1, 4, 1, 5, LARGE, 2]
    told: list[int] = []
    with working(2):
        made = side_by_side(items, same, where, float, told.append)
        assert [item for item, _, _ in made] == items
        again = side_by_side(items, same, where, float, lambda _: None)
    assert sorted(told) == sorted(items)
    others = {process for item, process, _ in made if item != LARGE} - {os.getpid()}
    assert 1 <= len(others) <= 2
    assert {process for item, process, _ in again if item != LARGE} <= others | {os.getpid()}, "they are started once"
    assert made[5][1] == os.getpid(), "what is large is not sent"
    assert all(threads == 1 for _, _, every in made for threads in every)
    assert not any(alive(process) for process in others)


def test_what_is_done_soon_or_one_at_a_time_needs_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with working(2):
        assert {process for _, process, _ in side_by_side([2, 1, 3], same, where, float, lambda _: None)} == {
            os.getpid()
        }
    monkeypatch.setattr(parallel, "SOON", 0.0)
    with working(1):
        assert {process for _, process, _ in side_by_side([2, 1, 3], same, where, float, lambda _: None)} == {
            os.getpid()
        }


@pytest.mark.usefixtures("at_once")
def test_an_error_in_another_process_is_raised_here() -> None:
    with pytest.raises(ValueError, match="three"), working(2):
        side_by_side(list(range(6)), same, fail_at_three, float, lambda _: None)
    with pytest.raises(UsageError, match="--jobs -1"), working(-1):
        pass


@pytest.mark.usefixtures("at_once")
def test_a_model_rewritten_in_other_processes_has_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bool] = []
    submit = parallel._Crew.submit

    def noted(crew, work, load, *, large):
        sent.append(large)
        return submit(crew, work, load, large=large)

    monkeypatch.setattr(parallel._Crew, "submit", noted)
    data = feeds(correlated(64, 0))
    one, two = (
        onnxlr.rewrite(residual(), keep_macs=0.4, data=data, validate=False, jobs=jobs).model.SerializeToString(
            deterministic=True
        )
        for jobs in (1, 2)
    )
    assert one == two
    assert sent.count(False) > 2, "layers were sent to other processes"


def end_yourself(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.usefixtures("at_once")
def test_a_process_that_is_ended_from_outside_is_one_line() -> None:
    with pytest.raises(ModelError, match="ended from outside"), working(2):
        side_by_side([1, 2, 3], same, end_yourself, float, lambda _: None)


def test_an_interrupt_ends_all_processes_of_an_unguarded_script_and_only_one_speaks(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from onnxlr import parallel\n"
        "parallel.SOON = 0.0\n"
        "def work(item):\n"
        f"    open({str(tmp_path)!r} + f'/{{os.getpid()}}.pid', 'x').close()\n"
        "    time.sleep(60.0)\n"
        "with parallel.working(2):\n"
        "    parallel.side_by_side([1, 2, 3], int, work, float, lambda _: None)\n"
    )
    run = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = monotonic() + 60.0
    while len(list(tmp_path.glob("*.pid"))) < 2 and monotonic() < end:
        sleep(0.05)
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(workers) == 2
    assert run.pid not in workers
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=30)
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")
    end = monotonic() + 10.0
    while any(alive(process) for process in workers) and monotonic() < end:
        sleep(0.05)
    assert not any(alive(process) for process in workers)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("own", [None, "default"])
def test_the_process_that_cleans_up_after_an_interrupt_warns_of_nothing(own: str | None) -> None:
    """It may find that what it is to remove is gone; the environment of this process stays what it was."""
    code = (
        "import os, time; from loky.backend import resource_tracker as r; from onnxlr.parallel import _Crew\n"
        "_Crew(2).processes\n"
        "of = lambda pid, what: open(f'/proc/{pid}/{what}').read()\n"
        "pid = r._resource_tracker._pid\n"
        "while of(pid, 'cmdline') in ('', of('self', 'cmdline')): time.sleep(0.01)\n"  # until it is itself
        "told = of(pid, 'environ')\n"
        "print('PYTHONWARNINGS=ignore' in told.split(chr(0)), os.environ.get('PYTHONWARNINGS'))"
    )
    given = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    given |= {} if own is None else {"PYTHONWARNINGS": own}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    assert done.stdout == f"True {own}\n"
