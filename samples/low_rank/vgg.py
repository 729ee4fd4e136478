"""VGG-11 (Simonyan and Zisserman 2015) for small images, at any width, with the global max pooling of Ioannou et al."""

from __future__ import annotations

from torch import nn

WIDTHS = ((64,), (128,), (256, 256), (512, 512), (512, 512))


def vgg(channels: int, share: float) -> nn.Sequential:
    """Eight 3x3 convolutions without BatchNorm; `share` scales all widths but the ten classes."""
    layers: list[nn.Module] = []
    into = channels
    for block, widths in enumerate(WIDTHS):
        layers += [nn.MaxPool2d(2)] if block else []
        for width in widths:
            out = max(round(width * share / 8) * 8, 8)
            layers += [nn.Conv2d(into, out, 3, padding=1), nn.ReLU()]
            into = out
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Conv2d(into, 10, 1), nn.Flatten())
