"""CharNet as Lebedev et al. (2015) did it: one convolution after the other becomes a chain, with fine-tuning between.

`python finetune.py --build runs` expects train.npz and validation.npz there (data.py) and writes charnet.ft.onnx and
finetune.json beside them. Needs onnxlr with PyTorch (the extra `train`). `--quick` takes fewer patches and epochs. The
validation patches say how it goes; the test patches are looked at once, when all is done.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnxlr
from onnxlr.training.options import TrainOptions
from rich.console import Console
from rich.table import Table

from evaluate import accuracy

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLE = Path(__file__).parent
ORIGINAL = SAMPLE / "charnet.onnx"
CALIBRATION = SAMPLE / "calibration.npz"
TEST = SAMPLE / "test.npz"

PAPER = {"speed": 8.5, "accuracy_before": 0.91, "accuracy_after": 0.90}
"""Lebedev et al., section 4.1: the whole network on a CPU, CP of conv2 and conv3."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What becomes a chain together, before the fine-tuning that follows: nodes with their family and rank."""

    nodes: tuple[tuple[str, str, int], ...]


RANKS = (16, 32, 64)
"""Of conv1, conv2 and conv3."""


def stages(ranks: Sequence[int]) -> tuple[Stage, Stage]:
    """Return the two stages."""
    first, second, third = ranks
    return Stage((("conv1", "basis", first), ("conv2", "cp3", second))), Stage((("conv3", "cp3", third),))


def rewrite(model: onnx.ModelProto | Path, stage: Stage) -> onnx.ModelProto:
    """Put the chains of a stage into a model, fitted to the calibration patches."""
    for node, family, rank in stage.nodes:
        model = onnxlr.rewrite(
            model,
            scheme=family,
            rank=rank,
            include=(node,),
            data=CALIBRATION,
            simplify=False,
            validate=False,
            threads=1,
        ).model
    assert isinstance(model, onnx.ModelProto)
    return model


def row(name: str, path: Path, patches: Path) -> dict[str, Any]:
    """Measure a model: accuracy on labelled patches, time of one patch against the original, one thread."""
    share, error, count = accuracy(path, patches)
    first, second = onnxlr.bench(ORIGINAL, path, threads=1, shapes={"patch": (1, 1, 24, 24)}).models
    gain = second.speedup
    assert gain is not None
    return {
        "model": name,
        "accuracy": share,
        "standard_error": round(error, 4),
        "patches": f"{count} {patches.stem}",
        "latency_ms": second.timing.median_ms,
        "latency_original_ms": first.timing.median_ms,
        "speed": [gain.low, gain.ratio, gain.high],
    }


def run(
    build: Path, plan: Sequence[Stage], options: TrainOptions, samples: int | None, threads: int
) -> list[dict[str, Any]]:
    """Rewrite and fine-tune stage by stage; returns a row per model, those of the test patches last."""
    work, validation = build / "stage.onnx", build / "validation.npz"
    rows = [row("original", ORIGINAL, validation)]
    model: onnx.ModelProto | Path = ORIGINAL
    for number, stage in enumerate(plan, start=1):
        model = rewrite(model, stage)
        onnx.save(model, str(work))
        rows.append(row(" ".join(f"{node} {family} {rank}" for node, family, rank in stage.nodes), work, validation))
        show(rows)
        began = time.process_time()
        tuned = onnxlr.finetune(
            model,
            teacher=ORIGINAL,
            data=build / "train.npz",
            labels="labels",
            samples=samples,
            options=options,
            threads=threads,
            checkpoint=build / f"stage{number}.checkpoint",
        )
        model = tuned.model
        onnx.save(model, str(work))
        spent = {"seconds": round(tuned.summary.seconds), "cpu_seconds": round(time.process_time() - began)}
        rows.append({**row("  fine-tuned", work, validation), "held_out": asdict(tuned.summary.after), **spent})
        show(rows)
    out = build / "charnet.ft.onnx"
    work.replace(out)
    for number in range(1, len(plan) + 1):
        (build / f"stage{number}.checkpoint").unlink(missing_ok=True)
    rows += [row("original", ORIGINAL, TEST), row("fine-tuned", out, TEST)]
    show(rows)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows so far beside the paper's."""
    table = Table(box=None, pad_edge=False)
    for head in ("model", "patches", "accuracy", "latency", "faster"):
        table.add_column(head, justify="left" if head in {"model", "patches"} else "right")
    for one in rows:
        share = f"{one['accuracy']:.2%} ± {one['standard_error']:.2%}"
        table.add_row(one["model"], one["patches"], share, f"{one['latency_ms']:.3f} ms", f"{one['speed'][1]:.2f}x")
    table.add_row("paper, before", "", f"{PAPER['accuracy_before']:.0%}", "", "1x")
    table.add_row("paper, after", "", f"{PAPER['accuracy_after']:.0%}", "", f"{PAPER['speed']}x")
    Console().print(table)


def main() -> None:
    """Run all stages and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("runs"), help="folder with train.npz, gets the models")
    parser.add_argument("--quick", action="store_true", help="12 000 patches, 3 epochs a stage")
    parser.add_argument("--samples", type=int, help="training patches; all by default")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of each stage")
    parser.add_argument("--ranks", type=int, nargs=3, default=RANKS, help="of conv1, conv2 and conv3")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--json", type=Path, help="where to write the record; default finetune.json in the build folder"
    )
    given = parser.parse_args()
    epochs, samples = (3, 12_000) if given.quick else (given.epochs, given.samples)
    options = TrainOptions(
        epochs=epochs, block_epochs=0, batch=(128,), learning_rate=2e-3, label_weight=0.3, seed=given.seed
    )
    rows = run(given.build, stages(given.ranks), options, samples, given.threads)
    report = {
        "command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "options": asdict(options),
        "samples": samples,
        "machine": asdict(onnxlr.bench(ORIGINAL, threads=1, shapes={"patch": (1, 1, 24, 24)}).target),
        "paper": PAPER,
        "rows": rows,
    }
    out = given.json or given.build / "finetune.json"
    out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
