"""Top-1 accuracy of an ONNX character model on labelled patches. Needs onnxruntime and numpy only.

`python evaluate.py charnet.onnx test.npz`
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import onnxruntime as ort

SAMPLE = Path(__file__).parent
BATCH = 200


def accuracy(model_path: Path, npz_path: Path) -> tuple[float, float, int]:
    """Share of patches whose largest logit is the label's.

    `npz_path` holds `patch` (uint8 [n, 1, 24, 24], grey levels) and `labels` (integers [n], below 37); the model takes
    the grey levels as float32, unscaled. Returns the accuracy, its binomial standard error and n.
    Raises KeyError if the archive has no `patch` or no `labels`, ValueError if their lengths differ or are zero.
    """
    with np.load(npz_path) as archive:
        patches, labels = archive["patch"], archive["labels"]
    count = len(patches)
    if count == 0 or count != len(labels):
        raise ValueError(f"{npz_path}: {count} patches for {len(labels)} labels")
    session = ort.InferenceSession(str(model_path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    hits = 0
    for start in range(0, count, BATCH):
        feed = patches[start : start + BATCH].astype(np.float32)
        logits = np.asarray(session.run(None, {name: feed})[0])
        hits += int((logits.argmax(axis=1) == labels[start : start + BATCH]).sum())
    share = hits / count
    return share, math.sqrt(share * (1 - share) / count), count


def main() -> None:
    """Print the accuracy of one model on one archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=SAMPLE / "charnet.onnx")
    parser.add_argument("data", type=Path, nargs="?", default=SAMPLE / "test.npz")
    options = parser.parse_args()
    share, error, count = accuracy(options.model, options.data)
    print(f"{options.model.name}: {share:.2%} +- {error:.2%} of {count} patches")


if __name__ == "__main__":
    main()
