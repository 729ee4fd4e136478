"""Train CharNet: AdamW, warm-up and cosine, every patch in either contrast sign; resumes from its own checkpoint.

`python train.py --build DIR` expects DIR/train.npz and DIR/validation.npz (data.py) and writes DIR/last.pt (to resume),
DIR/best.pt (the weights with the best validation accuracy so far) and DIR/training.json (how it went).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data import load
from network import CharNet, scaled

WARM_UP_STEPS = 300


@dataclass(frozen=True, slots=True)
class Recipe:
    """What fixes a training run, up to the rounding of the machine."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    dropout: float
    seed: int


@dataclass(slots=True)
class Progress:
    """Where a run stands, over all its parts: `seconds` of wall time, the step and command each part began with."""

    step: int = 0
    seconds: float = 0.0
    best_accuracy: float = 0.0
    best_step: int = 0
    parts: list[tuple[int, str]] = field(default_factory=list)


def accuracy(network: CharNet, patches: Tensor, labels: Tensor) -> float:
    """Share of patches (uint8) whose largest logit is the label's."""
    network.eval()
    hits = 0
    with torch.inference_mode():
        for start in range(0, len(patches), 500):
            logits = network(scaled(patches[start : start + 500]))
            hits += int((logits.argmax(1) == labels[start : start + 500]).sum())
    network.train()
    return hits / len(patches)


def rate(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step: linear warm-up, then a cosine down to zero."""
    if step < WARM_UP_STEPS:
        return peak * (step + 1) / WARM_UP_STEPS
    return peak * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)))


def batch_of(patches: Tensor, labels: Tensor, step: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Take the step's patches (scaled, each negated with probability one half) and labels, fixed by seed and step."""
    per_epoch = len(patches) // recipe.batch
    epoch, index = divmod(step, per_epoch)
    order = np.random.default_rng([recipe.seed, epoch]).permutation(len(patches))
    chosen = torch.from_numpy(order[index * recipe.batch : (index + 1) * recipe.batch])
    signs = np.random.default_rng([recipe.seed, epoch, index]).choice([-1.0, 1.0], recipe.batch)
    flips = torch.from_numpy(signs.astype(np.float32))
    return scaled(patches[chosen]) * flips[:, None, None, None], labels[chosen]


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint under another name first, so that an interrupted write leaves the old one."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)


def train(recipe: Recipe, build: Path, checkpoint_seconds: float) -> Progress:
    """Run (or go on with) the training; returns the final progress."""
    torch.manual_seed(recipe.seed)
    patches, labels = (torch.from_numpy(array) for array in load(build / "train.npz"))
    held_out, held_out_labels = (torch.from_numpy(array) for array in load(build / "validation.npz"))
    labels, held_out_labels = labels.long(), held_out_labels.long()
    network = CharNet(recipe.dropout)
    optimiser = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    progress = Progress()
    last = build / "last.pt"
    if last.exists():
        state = torch.load(last, weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"])
        progress = Progress(**state["progress"])
    progress.parts.append((progress.step, " ".join(["python", "train.py", *sys.argv[1:]])))
    loss_mean, since = float("nan"), time.monotonic()
    while progress.step < recipe.steps:
        for group in optimiser.param_groups:
            group["lr"] = rate(progress.step, recipe.steps, recipe.learning_rate)
            group["weight_decay"] = recipe.weight_decay
        inputs, wanted = batch_of(patches, labels, progress.step, recipe)
        loss = nn.functional.cross_entropy(network(inputs), wanted)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        progress.step += 1
        loss_mean = loss.item() if math.isnan(loss_mean) else 0.99 * loss_mean + 0.01 * loss.item()
        spent = time.monotonic() - since
        if progress.step % 200 == 0:
            log(f"step {progress.step}/{recipe.steps} loss {loss_mean:.4f} at {progress.seconds + spent:.0f} s")
        if spent > checkpoint_seconds or progress.step == recipe.steps:
            reached = accuracy(network, held_out, held_out_labels)
            progress.seconds, since = progress.seconds + time.monotonic() - since, time.monotonic()
            if reached > progress.best_accuracy:
                progress.best_accuracy, progress.best_step = reached, progress.step
                save(build / "best.pt", {"network": network.state_dict()})
            log(f"step {progress.step}/{recipe.steps} validation {reached:.4f} best {progress.best_accuracy:.4f}")
            content = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
            save(last, {**content, "rng": torch.get_rng_state(), "progress": asdict(progress)})
    return progress


def log(line: str) -> None:
    """Print one line at once: the output usually goes to a file."""
    print(line, flush=True)


def machine() -> dict[str, str | int]:
    """CPU name, logical cores, threads used and the torch version."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = os.cpu_count() or 0
    return {
        "cpu": names[0] if names else "unknown",
        "cores": cores,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def main() -> None:
    """Train, then write how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("runs"), help="folder with the data, gets the result")
    parser.add_argument(
        "--steps", type=int, default=3000, help="number of batches, a resumed run's former ones included"
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=2015)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint-seconds", type=float, default=150.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe(
        options.steps, options.batch, options.learning_rate, options.weight_decay, options.dropout, options.seed
    )
    progress = train(recipe, options.build, options.checkpoint_seconds)
    build: Path = options.build
    report = {
        "parts": [{"from_step": step, "command": command} for step, command in progress.parts],
        **asdict(recipe),
        "train_patches": len(load(build / "train.npz")[1]),
        "validation_patches": len(load(build / "validation.npz")[1]),
        "steps": progress.step,
        "wall_seconds": round(progress.seconds),
        "validation_accuracy": progress.best_accuracy,
        "best_step": progress.best_step,
        "machine": machine(),
    }
    (build / "training.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
