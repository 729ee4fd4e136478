"""What the experiments share: data, one schedule for all networks of a table, the count of MACs, the record."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from datasets import load

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Settings:
    """The images, and a training schedule: SGD with momentum, warm-up and cosine, mirrored and moved images."""

    epochs: int
    train_count: int
    width: float
    batch: int = 100
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    seeds: tuple[int, ...] = (0,)
    threads: int = 2
    data: str = "cifar10"

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return CHANNELS[self.data]


CHANNELS = {"cifar10": 3, "fashion-mnist": 1}
TITLES = {"cifar10": "CIFAR-10", "fashion-mnist": "Fashion-MNIST"}
FULL = Settings(epochs=120, train_count=50_000, width=1.0, seeds=(0, 1, 2))
QUICK = Settings(epochs=5, train_count=8_000, width=0.25)


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Normalised images (n, c, h, w) and labels (n,)."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def images(cache: Path, settings: Settings) -> Images:
    """Read the data set; the first training images of the count asked for, which are in random order as they come."""
    arrays = load(settings.data, cache)
    count = settings.train_count
    train = arrays["train_x"][:count]
    mean, deviation = _moments(train)

    def scaled(values: NDArray[np.uint8]) -> Tensor:
        return (torch.from_numpy(values).float() - mean) / deviation

    labels = [torch.from_numpy(arrays[key].astype(np.int64)) for key in ("train_y", "test_y")]
    return Images(scaled(train), labels[0][:count], scaled(arrays["test_x"]), labels[1])


def _moments(train: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    values = train.astype(np.float32)
    mean, deviation = values.mean((0, 2, 3)), values.std((0, 2, 3))
    return torch.from_numpy(mean)[:, None, None], torch.from_numpy(deviation)[:, None, None]


def train(model: nn.Module, data: Images, settings: Settings, seed: int) -> float:
    """Train, and return the share of test images that are right; a network that diverges is at chance."""
    rng = np.random.default_rng(seed)
    learnt = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(
        learnt, settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay, nesterov=True
    )
    per_epoch = len(data.train_x) // settings.batch
    steps = per_epoch * settings.epochs
    model.to(memory_format=torch.channels_last)  # faster by a third, the same otherwise
    model.train()
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.from_numpy(rng.permutation(len(data.train_x)))
        warm = max(steps // 20, 1)
        share = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        optimizer.param_groups[0]["lr"] = settings.learning_rate * share
        at = step % per_epoch * settings.batch
        chosen = order[at : at + settings.batch]
        loss = nn.functional.cross_entropy(model(_moved(data.train_x[chosen], rng)), data.train_y[chosen])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(learnt, 5.0)
        optimizer.step()
    return accuracy(model, data)


def _moved(batch: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror half of the images, and move all of them by the same random step of up to 4 pixels."""
    y, x = rng.integers(0, 9, 2)
    wide = nn.functional.pad(batch, [4] * 4)[:, :, y : y + batch.shape[2], x : x + batch.shape[3]]
    mirrored = torch.from_numpy(rng.random(len(batch)) < 0.5)
    moved = torch.where(mirrored[:, None, None, None], wide.flip(-1), wide)
    return moved.contiguous(memory_format=torch.channels_last)


def accuracy(model: nn.Module, data: Images) -> float:
    """Share of test images whose largest score is the label's."""
    model.eval()
    with torch.inference_mode():
        found = [model(part).argmax(1) for part in data.test_x.split(500)]
    return float((torch.cat(found) == data.test_y).float().mean())


def macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-adds of all convolutions for one image."""
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d)
        total += layer.weight[0].numel() * output[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    model.eval()
    with torch.inference_mode():
        model(example[:1])
    for hook in hooks:
        hook.remove()
    return total


def learnable(model: nn.Module) -> int:
    """Numbers that training may change."""
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


def options(about: str | None, quick: Settings = QUICK) -> tuple[Settings, Path, Path | None]:
    """Parse the command line: the settings, the cache of data sets, where to write the record."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the width, few images, minutes")
    parser.add_argument("--data", choices=sorted(TITLES), default="cifar10", help="the images")
    parser.add_argument("--cache", type=Path, default=Path("samples/cache"), help="folder of the data sets")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--train-count", type=int)
    parser.add_argument("--width", type=float)
    parser.add_argument("--seeds", type=int, help="number of seeds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the record to this file")
    given = parser.parse_args()
    settings = replace(quick if given.quick else FULL, threads=given.threads, data=given.data)
    for name in ("epochs", "train_count", "width"):
        if getattr(given, name) is not None:
            settings = replace(settings, **{name: getattr(given, name)})
    if given.seeds is not None:
        settings = replace(settings, seeds=tuple(range(given.seeds)))
    torch.set_num_threads(settings.threads)
    return settings, given.cache, given.json


@dataclass(frozen=True, slots=True)
class Row:
    """A network of a table: test accuracy of each seed, MACs, learnable numbers, wall and CPU seconds of training."""

    network: str
    accuracies: tuple[float, ...]
    macs: int
    learnable: int
    seconds: float
    cpu_seconds: float


def timed(name: str, models: list[nn.Module], data: Images, settings: Settings) -> Row:
    """Train one model per seed, each made already."""
    began, used = time.monotonic(), time.process_time()
    found = tuple(train(model, data, settings, seed) for model, seed in zip(models, settings.seeds, strict=True))
    first = models[0]
    seconds = round(time.monotonic() - began, 1), round(time.process_time() - used, 1)
    return Row(name, found, macs(first, data.test_x), learnable(first), *seconds)


def continued(row: Row, models: list[nn.Module], data: Images, settings: Settings) -> Row:
    """Train the models of a row further, and return what they are then, with the time of both parts."""
    later = timed(row.network, models, data, settings)
    seconds = round(row.seconds + later.seconds, 1), round(row.cpu_seconds + later.cpu_seconds, 1)
    return replace(later, seconds=seconds[0], cpu_seconds=seconds[1])


def show(settings: Settings, rows: list[Row], paper: str) -> None:
    """Print the table so far, every network beside the first, and what the paper reports."""
    table = Table(box=None, pad_edge=False, title=f"{TITLES[settings.data]}, same schedule", title_justify="left")
    for head in ("network", "accuracy", "MACs", "of the first", "learnable"):
        table.add_column(head, justify="left" if head == "network" else "right")
    for row in rows:
        shares = " ".join(f"{share:.2%}" for share in row.accuracies)
        table.add_row(
            row.network, shares, f"{row.macs / 1e6:.1f} M", f"{row.macs / rows[0].macs:.0%}", f"{row.learnable}"
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(paper, style="dim")


def record(path: Path | None, settings: Settings, rows: list[Row], paper: str) -> None:
    """Write the table with how it was made."""
    if path is None:
        return
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    content: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "settings": asdict(settings),
        "machine": {"cpu": cpu, "cores": os.cpu_count(), "torch": str(torch.__version__)},
        "rows": [asdict(row) for row in rows],
        "paper": paper,
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
