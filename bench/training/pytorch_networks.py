"""The networks of training/network/model.py in PyTorch, for comparison; needs only PyTorch and NumPy.

bench/training/gpu_throughput.py runs them on a GPU, bench/training/cpu_throughput.py on a CPU in a process of another
Python (`--torch-python`).
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


def conv_block(
    channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, activate: bool = True
) -> nn.Sequential:
    """Convolution and batch normalisation, and a ReLU unless a shortcut is added first."""
    layers = [
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=(kernel - stride + 1) // 2, bias=False),
        nn.BatchNorm2d(channels_out),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if activate else []))


class Small(nn.Module):
    """`small`: a stem of stride four, one residual stage at 1/8 resolution, average pooling, one linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_block(1, 32, 8, 4), conv_block(32, 64, 3, 2))
        self.residual = nn.Sequential(conv_block(64, 64), conv_block(64, 64, activate=False))
        self.final_conv, self.head = conv_block(64, 128, 1), nn.Linear(128, classes)

    def forward(self, pixels: Any) -> Any:
        """Logits (n, classes) of pixels (n, 1, h, w)."""
        maps = self.stem(pixels * 2 - 1)
        return self.head(self.final_conv(torch.relu(maps + self.residual(maps))).mean((2, 3)))


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut (He et al., CVPR 2016); the first has the stride, as in keras.applications."""

    def __init__(self, channels_in: int, width: int, stride: int, widen: bool) -> None:
        super().__init__()
        self.path = nn.Sequential(
            conv_block(channels_in, width, 1, stride),
            conv_block(width, width),
            conv_block(width, 4 * width, 1, activate=False),
        )
        self.shortcut = conv_block(channels_in, 4 * width, 1, stride, activate=False) if widen else nn.Identity()

    def forward(self, maps: Any) -> Any:
        """Feature maps (n, 4 × width, h, w)."""
        return torch.relu(self.path(maps) + self.shortcut(maps))


class ResNet50(nn.Module):
    """ResNet-50 on grey images, copied into three channels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        blocks, channels_in = [], 64
        for stage, count in enumerate((3, 4, 6, 3)):
            for block_index in range(count):
                stride = 2 if stage and not block_index else 1
                blocks.append(Bottleneck(channels_in, 64 * 2**stage, stride, widen=not block_index))
                channels_in = 256 * 2**stage
        self.stem = nn.Sequential(conv_block(3, 64, 7, 2), nn.MaxPool2d(3, 2, padding=1))
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(channels_in, classes)

    def forward(self, pixels: Any) -> Any:
        """Logits (n, classes) of pixels (n, 1, h, w)."""
        return self.head(self.blocks(self.stem(pixels.expand(-1, 3, -1, -1))).mean((2, 3)))


NETWORKS = {"small": Small, "resnet50": ResNet50}


def make_step_timer(
    network: str, pixels: Any, labels: Any, device: str, precision: str, compiled: bool
) -> Callable[[int], float]:
    """A function: number of training steps -> seconds, on one batch (n, h, w, 1) that stays on the device."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)
    targets = torch.from_numpy(labels).to(device)
    model = NETWORKS[network](int(labels.max()) + 1).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=device == "cuda")
    forward = torch.compile(model) if compiled else model

    def time_steps(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = nn.functional.cross_entropy(forward(images), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device
        return time.perf_counter() - start

    return time_steps


def main() -> None:
    """Run a round for every line on standard input and print its seconds (see bench/training/cpu_throughput.py)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    for name in ("batch", "steps", "size", "cores"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.cores)
    random = np.random.default_rng(0)
    pixels = random.random((options.batch, options.size, options.size, 1), np.float32)
    time_steps = make_step_timer(
        "small", pixels, np.arange(options.batch) % 3, "cpu", options.precision, compiled=False
    )
    time_steps(2)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        sys.stdout.write(f"{time_steps(options.steps):.6f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
