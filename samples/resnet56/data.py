"""CIFAR-10 as files for `onnxlr rewrite --data`, `finetune --data` and `--eval`.

`python samples/resnet56/data.py --out runs` writes runs/train.npz (unlabelled), runs/calibration.npz (the first 4096 of
them), runs/new.npz (the last 5000, which many networks leave out of training to validate by; shuffled, with `labels`)
and runs/test.npz (with `labels`). The arrays are called `x`, float32 [n, 3, 32, 32], RGB from 0 to 1, or what
`--mean` and `--std` make of that; `--name` is another name for the model's input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from datasets import load

CALIBRATION, NEW, SEED = 4096, 5000, 5


def write(arrays: dict[str, np.ndarray], out: Path, name: str, mean: list[float], std: list[float]) -> dict[str, int]:
    """Write the files; returns the number of images in each."""
    offset, scale = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (mean, std))

    def scaled(images: np.ndarray) -> np.ndarray:
        return (images.astype(np.float32) / 255 - offset) / scale

    out.mkdir(parents=True, exist_ok=True)
    train = scaled(arrays["train_x"])
    np.savez(out / "train.npz", **{name: train})
    np.savez(out / "calibration.npz", **{name: train[:CALIBRATION]})
    first = max(len(train) - NEW, 0)
    new = first + np.random.default_rng(SEED).permutation(len(train) - first)
    np.savez(out / "new.npz", **{name: train[new], "labels": arrays["train_y"][new]})
    np.savez(out / "test.npz", **{name: scaled(arrays["test_x"]), "labels": arrays["test_y"]})
    return {
        "train": len(train),
        "calibration": len(train[:CALIBRATION]),
        "new": len(new),
        "test": len(arrays["test_y"]),
    }


def main() -> None:
    """Fetch what the cache lacks, write the files, and say how many images there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--cache", type=Path, default=Path("samples/cache"), help="folder of the data sets")
    parser.add_argument("--name", default="x", help="name of the model's input")
    parser.add_argument("--mean", type=float, nargs="+", default=[0.0], help="subtracted, one value or one a channel")
    parser.add_argument("--std", type=float, nargs="+", default=[1.0], help="divided by, after that")
    given = parser.parse_args()
    counts = write(load("cifar10", given.cache), given.out, given.name, given.mean, given.std)
    for split, count in counts.items():
        print(f"{given.out / split}.npz: {count} images")


if __name__ == "__main__":
    main()
