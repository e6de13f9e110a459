"""The networks of training/network/model.py written plainly in PyTorch, to compare with; needs PyTorch and NumPy alone.

bench/gpu.py runs it on a GPU, bench/train.py on a CPU as a process of another Python (`--torch-python`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn


def joined(inner: int, outer: int, kernel: int = 3, stride: int = 1, activate: bool = True) -> nn.Sequential:
    """Convolution and batch normalisation, with a rectifier unless another path is added first."""
    layers = [
        nn.Conv2d(inner, outer, kernel, stride, padding=(kernel - stride + 1) // 2, bias=False),
        nn.BatchNorm2d(outer),
    ]
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
        self.path = nn.Sequential(
            joined(inner, width, 1, stride), joined(width, width), joined(width, 4 * width, 1, activate=False)
        )
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


def stepper(
    network: str, pixels: Any, labels: Any, kind: str, precision: str, compiled: bool
) -> Callable[[int], float]:
    """Seconds of so many training steps on one batch (n, h, w, 1) that stays on the device: channels last, AdamW."""
    seen = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(kind, memory_format=torch.channels_last)
    truth = torch.from_numpy(labels).to(kind)
    learner = NETWORKS[network](int(labels.max()) + 1).to(kind, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(learner.parameters(), 1e-3, fused=kind == "cuda")
    forward = torch.compile(learner) if compiled else learner

    def run(steps: int) -> float:
        clock = time.perf_counter()
        for _ in range(steps):
            with torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = nn.functional.cross_entropy(forward(seen), truth)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device
        return time.perf_counter() - clock

    return run


def main() -> None:
    """Measure a round for every line that comes in, and answer with its seconds (bench/train.py)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    for name in ("batch", "steps", "size", "cores"):
        parser.add_argument(f"--{name}", type=int, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(asked.cores)
    random = np.random.default_rng(0)
    pixels = random.random((asked.batch, asked.size, asked.size, 1), np.float32)
    run = stepper("small", pixels, np.arange(asked.batch) % 3, "cpu", asked.precision, compiled=False)
    run(2)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        sys.stdout.write(f"{run(asked.steps):.6f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
