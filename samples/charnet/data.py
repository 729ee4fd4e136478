"""The four sets of patches: train and validation go to a build folder, calibration.npz and test.npz are shipped.

`python data.py` fetches the fonts, renders what is not there yet and prints each set's size. Test patches come from
families of the test split alone; calibration patches from train families, other patches than the training ones.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fonts import Face, Split, faces, fetch
from render import Labels, Patches, render

SAMPLE = Path(__file__).parent
SEED = 2014


@dataclass(frozen=True, slots=True)
class PatchSet:
    """One set: the split its fonts come from, its file, its number of patches, its seed, whether labels are kept."""

    split: Split
    path: Path
    count: int
    seed: int
    labelled: bool = True


def patch_sets(build: Path, train_count: int, more_count: int) -> tuple[PatchSet, ...]:
    """List the sets in the order they are rendered; `build` holds what is not shipped."""
    more = PatchSet("test", build / "more.npz", more_count, SEED + 5)
    return (
        *((more,) if more_count else ()),
        PatchSet("validation", build / "validation.npz", 4000, SEED + 1),
        PatchSet("train", build / "train.npz", train_count, SEED + 2),
        PatchSet("test", SAMPLE / "test.npz", 4000, SEED + 3),
        PatchSet("train", SAMPLE / "calibration.npz", 6144, SEED + 4, labelled=False),
    )


def load(path: Path) -> tuple[Patches, Labels]:
    """Read a labelled set: uint8 patches [n, 1, 24, 24] and uint8 labels [n]."""
    with np.load(path) as archive:
        return archive["patch"], archive["labels"]


def make(wanted: PatchSet, usable: list[Face], processes: int) -> None:
    """Render one set into its file (`patch`, and `labels` where the set is labelled)."""
    chosen = [face for face in usable if face.split == wanted.split]
    patches, labels = render(chosen, wanted.count, wanted.seed, processes)
    wanted.path.parent.mkdir(parents=True, exist_ok=True)
    if wanted.labelled:
        np.savez_compressed(wanted.path, patch=patches, labels=labels)
    else:
        np.savez_compressed(wanted.path, patch=patches)


def main() -> None:
    """Fetch, render, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("runs"), help="folder for what is not shipped")
    parser.add_argument("--fonts", type=Path, default=Path("cache/fonts"), help="folder for the unpacked fonts")
    parser.add_argument("--train-count", type=int, default=240_000, help="number of training patches")
    parser.add_argument("--more-count", type=int, default=0, help="number of further test patches, in more.npz")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    for package in fetch(options.fonts):
        print(f"not in the archive: {package}", file=sys.stderr)
    usable = faces(options.fonts)
    for wanted in patch_sets(options.build, options.train_count, options.more_count):
        if not wanted.path.exists():
            make(wanted, usable, options.processes)
        print(f"{wanted.path.name}: {wanted.count} patches, {wanted.path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
