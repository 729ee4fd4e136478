"""Tai et al. (2016): a network in network whose convolutions are separable from scratch, against the plain one.

`python samples/low_rank/separable.py --quick` takes minutes, without it a day or more on a few cores.
"""

from __future__ import annotations

import torch
from onnxlr.training.layers import SeparableConv2d, convert
from torch import nn

from experiment import Images, Settings, images, options, record, show, timed
from nin import he, nin

PAPER = "paper: NIN on CIFAR-10 without augmentation 91.31 %, low-rank from scratch with BatchNorm"


def separable(name: str, layer: nn.Module) -> nn.Module | None:
    """Give as many channels between the two as leave two fifths of the MACs, and BatchNorm there."""
    del name
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size == (1, 1):
        return None
    into, out, side = layer.in_channels, layer.out_channels, layer.kernel_size[0]
    rank = max(round(0.4 * into * out * side / (into + out)), 1)
    return SeparableConv2d(
        layer.in_channels,
        layer.out_channels,
        (layer.kernel_size[0], layer.kernel_size[1]),
        padding=layer.kernel_size[0] // 2,
        bias=layer.bias is not None,
        rank=rank,
        batchnorm=True,
    )


def models(settings: Settings, *, low_rank: bool) -> list[nn.Module]:
    """One network per seed."""
    made = []
    for seed in settings.seeds:
        torch.manual_seed(seed)
        plain = he(nin(settings.channels, settings.width, batchnorm=True))
        made.append(convert(plain, separable) if low_rank else plain)
    return made


def main() -> None:
    """Train both, print and write the table."""
    settings, cache, out = options(__doc__)
    data: Images = images(cache, settings)
    rows = []
    for name, low_rank in (("NIN", False), ("NIN, separable", True)):
        rows.append(timed(name, models(settings, low_rank=low_rank), data, settings))
        show(settings, rows, PAPER)
    record(out, settings, rows, PAPER)


if __name__ == "__main__":
    main()
