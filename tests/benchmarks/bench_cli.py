"""What the command line costs: CPU time of ``onnxlr --help``; time and memory of ``onnxlr rewrite`` on a model.

    python tests/benchmarks/bench_cli.py [--model MODEL.onnx] [-- OPTIONS OF REWRITE]

CPU seconds are user and system time of the process and its children, as the system counts them; of several starts
the least is taken, the others having been disturbed.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

BAR_S = 0.3
STARTS = 10


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds on the clock, CPU seconds, peak resident size in MB of the largest process, and the exit code."""

    wall: float
    cpu: float
    peak: float
    code: int


def main() -> int:
    """Print the costs; return 1 when the help takes more than its bar or the rewrite fails."""
    options = _options()
    helps = [cost(("--help",), quiet=True) for _ in range(STARTS)]
    best = min(one.cpu for one in helps)
    print(f"onnxlr --help: {best:.3f} s of CPU (at most {BAR_S} s: {'ok' if best <= BAR_S else 'above'})")
    failed = best > BAR_S
    if options.model is not None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.onnx"
            asked = ("rewrite", str(options.model), "-o", str(out), *options.options)
            spent = cost(asked, quiet=False)
        failed |= spent.code != 0
        words = " ".join(("rewrite", options.model.name, *options.options))
        print(f"onnxlr {words}: {spent.wall:.1f} s, {spent.cpu:.1f} s of CPU, {spent.peak:.0f} MB at most")
    return 1 if failed else 0


def cost(arguments: tuple[str, ...], *, quiet: bool) -> Cost:
    """Run the command line once in a process of its own."""
    start = time.perf_counter()
    output = subprocess.DEVNULL if quiet else None
    process = subprocess.Popen((sys.executable, "-m", "onnxlr", *arguments), stdout=output)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, process.returncode)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="also rewrite this model")
    parser.add_argument("options", nargs="*", default=["--keep-macs", "0.5"], help="options of rewrite, behind --")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
