"""Network in network (Lin et al. 2014) for 32x32 images, at any width, with BatchNorm or without."""

from __future__ import annotations

from torch import nn

WIDTHS = ((192, 160, 96), (192, 192, 192), (192, 192, 10))
KERNELS = (5, 5, 3)


def nin(channels: int, share: float, *, batchnorm: bool) -> nn.Sequential:
    """Three blocks of a convolution and two 1x1; `share` scales all widths but the ten classes."""
    layers: list[nn.Module] = []
    into = channels
    for block, (widths, kernel) in enumerate(zip(WIDTHS, KERNELS, strict=True)):
        for place, width in enumerate(widths):
            last = block == place == 2
            out = 10 if last else max(round(width * share / 8) * 8, 8)
            side = kernel if place == 0 else 1
            layers.append(nn.Conv2d(into, out, side, padding=side // 2, bias=not batchnorm or last))
            layers += [nn.BatchNorm2d(out)] if batchnorm and not last else []
            layers += [] if last else [nn.ReLU()]
            into = out
        if block < 2:
            layers.append(nn.MaxPool2d(3, 2, 1) if block == 0 else nn.AvgPool2d(3, 2, 1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def he(model: nn.Module) -> nn.Module:
    """Draw the plain convolutions as He et al. (2015), by their fan-out; low-rank layers have their own."""
    for layer in model.modules():
        if type(layer) is nn.Conv2d:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model
