"""The sample network made faster from the command line, and what that did to its accuracy and its latency.

`python samples/charnet/demo.py` writes build/charnet.lr.onnx. Needs onnxlr alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluate import accuracy

SAMPLE = Path(__file__).parent
PROJECT = SAMPLE.parents[1]
MODEL = SAMPLE / "charnet.onnx"
TEST = SAMPLE / "test.npz"
REWRITTEN = PROJECT / "build" / "charnet.lr.onnx"
REPORT = REWRITTEN.with_suffix(".json")

HOW = ("--keep-macs", "0.2", "--scheme", "separable", "--data", "samples/charnet/calibration.npz")
"""What is asked of onnxlr: how much to keep, and what to go by."""


def main() -> int:
    """Run the demo; return the exit code of the rewrite."""
    console = Console(highlight=False)
    console.print(f"A trained network that reads characters: {_percent(MODEL)} right on unseen fonts.\n")
    REWRITTEN.parent.mkdir(exist_ok=True)
    files = ("-o", _shown(REWRITTEN), "--json", _shown(REPORT), "--force")
    command = ("rewrite", _shown(MODEL), *HOW, "--threads", "1", *files)
    console.print(f"$ onnxlr {' '.join(command)}", style="bold cyan", soft_wrap=True)
    code = subprocess.run((sys.executable, "-m", "onnxlr", *command), cwd=PROJECT, check=False).returncode
    if code == 0:
        console.print()
        console.print(_table(json.loads(REPORT.read_text(encoding="utf-8"))))
    return code


def _table(report: dict[str, Any]) -> Table:
    """Put the two models side by side; the latencies are those the rewrite measured, taking turns."""
    measured = report["measured"]
    gain = measured["speedup"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("in short", "accuracy", "latency, 1 thread", "faster"):
        table.add_column(head, justify="left" if head == "in short" else "right")
    table.add_row("charnet.onnx", _percent(MODEL), f"{measured['latency_before']['median_ms']:.2f} ms", "")
    table.add_row(
        "charnet.lr.onnx",
        _percent(REWRITTEN),
        f"{measured['latency_after']['median_ms']:.2f} ms",
        f"[bold green]{gain['ratio']:.2f}x[/]",
    )
    return table


def _percent(model: Path) -> str:
    share, error, _ = accuracy(model, TEST)
    return f"{share:.2%} ± {error:.2%}"


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT))


if __name__ == "__main__":
    sys.exit(main())
