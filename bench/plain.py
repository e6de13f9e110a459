"""The networks of training/model.py written plainly in PyTorch, to compare with (bench/gpu.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def joined(inner: int, outer: int, kernel: int = 3, stride: int = 1, activate: bool = True) -> nn.Sequential:
    """Convolution and batch normalisation, with a rectifier unless another path is added first."""
    layers = [nn.Conv2d(inner, outer, kernel, stride, padding=(kernel - stride + 1) // 2, bias=False),
              nn.BatchNorm2d(outer)]  # fmt: skip
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if activate else []))


class Small(nn.Module):
    """`small`: a stem of stride four, one residual stage at 1/8 of the picture, average, one linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(joined(1, 32, 8, 4), joined(32, 64, 3, 2))
        self.inner = nn.Sequential(joined(64, 64), joined(64, 64, activate=False))
        self.last, self.head = joined(64, 128, 1), nn.Linear(128, classes)

    def forward(self, pixels: Any) -> Any:
        """Logits (n, classes) of pixels (n, 1, h, w)."""
        maps = self.stem(pixels * 2 - 1)
        return self.head(self.last(torch.relu(maps + self.inner(maps))).mean((2, 3)))


class Bottleneck(nn.Module):
    """Three convolutions beside a shortcut (He et al., CVPR 2016), the stride in the first as keras.applications."""

    def __init__(self, inner: int, width: int, stride: int, widen: bool) -> None:
        super().__init__()
        self.path = nn.Sequential(joined(inner, width, 1, stride), joined(width, width),
                                  joined(width, 4 * width, 1, activate=False))  # fmt: skip
        self.shortcut = joined(inner, 4 * width, 1, stride, activate=False) if widen else nn.Identity()

    def forward(self, maps: Any) -> Any:
        """Maps of four times the width."""
        return torch.relu(self.path(maps) + self.shortcut(maps))


class ResNet50(nn.Module):
    """ResNet-50 on grey pictures, copied into three channels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        blocks, inner = [], 64
        for stage, count in enumerate((3, 4, 6, 3)):
            for place in range(count):
                stride = 2 if stage and not place else 1
                blocks.append(Bottleneck(inner, 64 * 2**stage, stride, widen=not place))
                inner = 256 * 2**stage
        self.stem = nn.Sequential(joined(3, 64, 7, 2), nn.MaxPool2d(3, 2, padding=1))
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(inner, classes)

    def forward(self, pixels: Any) -> Any:
        """Logits (n, classes) of pixels (n, 1, h, w)."""
        return self.head(self.blocks(self.stem(pixels.expand(-1, 3, -1, -1))).mean((2, 3)))


NETWORKS = {"small": Small, "resnet50": ResNet50}
