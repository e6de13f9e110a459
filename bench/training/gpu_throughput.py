"""Images per second of fitting ResNet-50 at 224 and `small`: Keras on each installed backend, and PyTorch.

    python bench/training/gpu_throughput.py
    python bench/training/gpu_throughput.py --networks small --batch 32 --steps 8 --json

Each row runs in its own process, one after the other: a process has one backend and frees its memory at the end. Keras
runs what `oncoloop stage fit` runs: feed from memory, augmentation on the device, AdamW, bfloat16 layers. PyTorch runs
the same network with compile, autocast to bfloat16 and channels last, on one batch that stays on the device, without
augmentation and feed. No network access is needed. `of_peak` is the share of the device's dense bfloat16 peak (data
sheet), counting the convolutions of the forward pass three times. `feed_ms` is the time to assemble one batch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages are beside bench/

import numpy as np

from pipelines import params
from training.settings import FitSettings

ROOT = Path(__file__).resolve().parents[2]
CLASSES, ROUNDS = 3, 3
SIZES = {"small": 128, "resnet50": 224}
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # dense bfloat16 operations a second, NVIDIA's data sheets
ENGINES = {"keras-jax": "jax", "keras-tensorflow": "tensorflow", "pytorch": "torch"}


def main() -> None:
    """Run every engine on every network and print the table, or run one of them (`--one`)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--engines", nargs="+", choices=tuple(ENGINES), default=list(ENGINES))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40, help="batches of a round; the median of three rounds counts")
    parser.add_argument("--json", action="store_true", help="the figures alone, as JSON")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure = pytorch if options.engines[0] == "pytorch" else keras
        sys.stdout.write(json.dumps(measure(options.networks[0], options.batch, options.steps)) + "\n")
        return
    rows = [measure_in_process(engine, network, options) for network in options.networks for engine in options.engines]
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        import pandas as pd

        sys.stdout.write(pd.DataFrame(rows).fillna("").to_string(index=False) + "\n")


def measure_in_process(engine: str, network: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row, measured in its own process; the reason in `note` if it could not be measured."""
    row: dict[str, Any] = {"network": network, "size": SIZES[network], "batch": options.batch, "engine": engine}
    module = ENGINES[engine]
    if importlib.util.find_spec(module) is None:
        return row | {"note": f"{module} is not installed"}
    command = [
        sys.executable,
        __file__,
        "--one",
        "--engines",
        engine,
        "--networks",
        network,
        "--batch",
        str(options.batch),
        "--steps",
        str(options.steps),
    ]
    environment = os.environ | {"KERAS_BACKEND": module if engine.startswith("keras") else "numpy"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        return row | {"note": " ".join(process.stderr.strip().splitlines()[-1:])[:200]}
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    peak = next((value for name, value in PEAKS.items() if name in figures["device"]), None)
    rate = figures.pop("operations") * figures["images_per_second"]
    share = rate / peak if peak else None
    return row | figures | {"of_peak": round(share, 3) if share else "unknown"}


def settings(network: str, batch: int) -> FitSettings:
    """The shipped settings with this network, in bfloat16, for the measured number of epochs."""
    shipped = params.load(ROOT).fit
    return replace(
        shipped, backbone=network, batch_size=batch, epochs=ROUNDS + 1, patience=ROUNDS + 1, precision="bfloat16"
    )


def batch_of(count: int, size: int) -> tuple[Any, Any]:
    """Random pixels (count, size, size, 1) in [0, 1] and labels (count)."""
    random = np.random.default_rng(0)
    return random.random((count, size, size, 1), np.float32), random.integers(0, CLASSES, count)


def keras(network: str, batch: int, steps: int) -> dict[str, Any]:
    """Measure the fit of training/fitting/fit.py on units in memory; the first epoch compiles and does not count."""
    from keras.callbacks import LambdaCallback

    from training.fitting import fine_tuning, training_loop
    from training.fitting.augmentation import Feed
    from training.network import model

    fit_settings, size = settings(network, batch), SIZES[network]
    pixels, labels = batch_of(batch * steps, size)
    feed = Feed(pixels, labels, np.ones(len(labels)), batch, fit_settings.seed)
    stage = fine_tuning.stages(fit_settings)[0]
    trainer = training_loop.build_learning_model(
        model.build(fit_settings, CLASSES, size), fit_settings, stage, len(feed), ordered=False
    )
    epoch_starts: list[float] = []
    epoch_seconds: list[float] = []
    trainer.fit(
        feed.source(),
        epochs=ROUNDS + 1,
        verbose=0,
        shuffle=False,
        callbacks=[
            LambdaCallback(
                on_epoch_begin=lambda *_: epoch_starts.append(time.perf_counter()),
                on_epoch_end=lambda *_: epoch_seconds.append(time.perf_counter() - epoch_starts[-1]),
            )
        ],
    )
    feed_start = time.perf_counter()
    for index in range(steps):
        feed[index]
    feed_seconds = (time.perf_counter() - feed_start) / steps
    return summarise(batch * steps, epoch_seconds[1:], device(), network) | {"feed_ms": round(1000 * feed_seconds, 2)}


def pytorch(network: str, batch: int, steps: int) -> dict[str, Any]:
    """Measure the same network in PyTorch: compile, autocast to bfloat16, channels last, AdamW."""
    import torch

    from bench.training import pytorch_networks

    device_kind = "cuda" if torch.cuda.is_available() else "cpu"
    pixels, labels = batch_of(batch, SIZES[network])
    time_steps = pytorch_networks.make_step_timer(network, pixels, labels, device_kind, "bfloat16", compiled=True)
    round_seconds = [time_steps(steps) for _ in range(ROUNDS + 1)]
    device_name = torch.cuda.get_device_name() if device_kind == "cuda" else "cpu"
    return summarise(batch * steps, round_seconds[1:], device_name, network)


def summarise(images: int, seconds: list[float], name: str, network: str) -> dict[str, Any]:
    """The figures of one run."""
    return {
        "device": name,
        "images_per_second": round(images / statistics.median(seconds), 1),
        "operations": operations(network),
    }


def operations(network: str) -> float:
    """Operations of a training step for one image: the forward pass's convolutions (two a multiplication), times
    three for the two gradients. ResNet-50 at 224: 4.09e9 multiplications (He et al., CVPR 2016, table 1: 3.8e9)."""
    if network == "resnet50":
        return 3 * 2 * 4.09e9
    layers = ((32, 8 * 8 * 1, 32), (16, 9 * 32, 64), (16, 9 * 64, 64), (16, 9 * 64, 64), (16, 64, 128))
    return 3 * 2 * float(sum(side**2 * channels_in * channels_out for side, channels_in, channels_out in layers))


def device() -> str:
    """The device that Keras computes on; the vendor's name of a GPU if the backend reports it."""
    from keras import backend, distribution

    if backend.backend() == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name")) if gpus else "cpu"
    return str(distribution.list_devices()[0])


if __name__ == "__main__":
    main()
