"""CharNet in PyTorch: four valid convolutions with maxout, no pooling, 24x24 grey patch to 37 logits.

Jaderberg, Vedaldi, Zisserman, "Speeding up convolutional neural networks with low rank expansions" (2014); Lebedev et
al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition" (2015).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# (output channels, kernel side, maxout pieces) of each layer; the patch shrinks 24 -> 16 -> 8 -> 1 -> 1.
LAYERS = ((96, 9, 2), (128, 9, 2), (512, 8, 4), (148, 1, 4))
GREY_MEAN = 128.0
GREY_SCALE = 64.0


class CharNet(nn.Module):
    """The network on scaled patches, (grey - 128) / 64, float32 [n, 1, 24, 24] -> logits [n, 37].

    Maxout takes its pieces from equal blocks of channels: output c is the maximum of channels c, c + C/k, c + 2C/k, ...
    Dropout acts on the 64 and 128 channels that go into conv3 and conv4.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        channels = 1
        for width, side, pieces in LAYERS:
            convolution = nn.Conv2d(channels, width, side)
            # Maxout of k unit-variance pieces keeps the scale close to one, hence gain 1 and not the ReLU's sqrt(2).
            nn.init.normal_(convolution.weight, std=(channels * side * side) ** -0.5)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
            self.convolutions.append(convolution)
            channels = width // pieces
        self.dropouts = nn.ModuleList([nn.Identity(), nn.Identity(), nn.Dropout2d(dropout / 2), nn.Dropout(dropout)])

    def forward(self, patch: Tensor) -> Tensor:
        """Map scaled patches [n, 1, 24, 24] to logits [n, 37]."""
        signal = patch
        for convolution, dropout, (_, _, pieces) in zip(self.convolutions, self.dropouts, LAYERS, strict=True):
            signal = maxout(convolution(dropout(signal)), pieces)
        return signal.flatten(1)


def maxout(signal: Tensor, pieces: int) -> Tensor:
    """Take the maximum over `pieces` equal blocks of the channel axis: [n, C, h, w] -> [n, C / pieces, h, w]."""
    first, *others = signal.chunk(pieces, dim=1)
    for other in others:
        first = torch.maximum(first, other)
    return first


def scaled(patch: Tensor) -> Tensor:
    """Scale uint8 grey levels to the network's input range (float32)."""
    return (patch.float() - GREY_MEAN) / GREY_SCALE
