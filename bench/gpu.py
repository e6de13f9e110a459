"""Images per second of fitting ResNet-50 at 224 and `small`, Keras on each backend that is installed beside PyTorch.

    python bench/gpu.py
    python bench/gpu.py --networks small --batch 32 --steps 8 --json

Each row is a process of its own, one after the other: a process has one backend, and memory goes back between them.
Keras runs what `oncoloop stage fit` runs (feed from memory, augmentation on the device, AdamW, bfloat16 layers);
PyTorch the same network with compile, autocast to bfloat16 and channels last, on one batch that stays on the device,
without augmentation and feed. Needs no network. `of_peak` is the share of the device's dense bfloat16 peak by its data
sheet, three times the forward pass's convolutions counted; `feed_ms` the time to put one batch together.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a bench reads the rooms beside it

import numpy as np

from pipelines import params
from training.settings import FitSettings

ROOT = Path(__file__).resolve().parent.parent
CLASSES, ROUNDS = 3, 3
SIZES = {"small": 128, "resnet50": 224}
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # dense bfloat16 operations a second, NVIDIA's data sheets
ENGINES = {"keras-jax": "jax", "keras-tensorflow": "tensorflow", "pytorch": "torch"}


def main() -> None:
    """Run every engine on every network and print the table, or be one such run (`--one`)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--engines", nargs="+", choices=tuple(ENGINES), default=list(ENGINES))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40, help="batches of a round; the median of three rounds counts")
    parser.add_argument("--json", action="store_true", help="the figures alone, as JSON")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        measure = pytorch if asked.engines[0] == "pytorch" else keras
        sys.stdout.write(json.dumps(measure(asked.networks[0], asked.batch, asked.steps)) + "\n")
        return
    rows = [one(engine, network, asked) for network in asked.networks for engine in asked.engines]
    if asked.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        import pandas as pd

        sys.stdout.write(pd.DataFrame(rows).fillna("").to_string(index=False) + "\n")


def one(engine: str, network: str, asked: argparse.Namespace) -> dict[str, Any]:
    """A row, measured in a process of its own; where it could not be, why."""
    row: dict[str, Any] = {"network": network, "size": SIZES[network], "batch": asked.batch, "engine": engine}
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
        str(asked.batch),
        "--steps",
        str(asked.steps),
    ]
    environment = os.environ | {"KERAS_BACKEND": module if engine.startswith("keras") else "numpy"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        return row | {"note": " ".join(ran.stderr.strip().splitlines()[-1:])[:200]}
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    peak = next((value for name, value in PEAKS.items() if name in told["device"]), None)
    rate = told.pop("operations") * told["images_per_second"]
    share = rate / peak if peak else None
    return row | told | {"of_peak": round(share, 3) if share else "unknown"}


def settings(network: str, batch: int) -> FitSettings:
    """The shipped settings with that network, in bfloat16, for as long as it is measured."""
    shipped = params.load(ROOT).fit
    return replace(
        shipped, backbone=network, batch_size=batch, epochs=ROUNDS + 1, patience=ROUNDS + 1, precision="bfloat16"
    )


def batch_of(count: int, size: int) -> tuple[Any, Any]:
    """Pixels (count, size, size, 1) in [0, 1] and labels."""
    random = np.random.default_rng(0)
    return random.random((count, size, size, 1), np.float32), random.integers(0, CLASSES, count)


def keras(network: str, batch: int, steps: int) -> dict[str, Any]:
    """The fit of training/fitting/fit.py on units in memory; the first epoch compiles and is not counted."""
    from keras.callbacks import LambdaCallback

    from training.fitting import fine_tuning, training_loop
    from training.fitting.augmentation import Feed
    from training.network import model

    chosen, size = settings(network, batch), SIZES[network]
    pixels, labels = batch_of(batch * steps, size)
    feed = Feed(pixels, labels, np.ones(len(labels)), batch, chosen.seed)
    stage = fine_tuning.stages(chosen)[0]
    fitted = training_loop.learner(model.build(chosen, CLASSES, size), chosen, stage, len(feed), ordered=False)
    began: list[float] = []
    took: list[float] = []
    fitted.fit(
        feed.source(),
        epochs=ROUNDS + 1,
        verbose=0,
        shuffle=False,
        callbacks=[
            LambdaCallback(
                on_epoch_begin=lambda *_: began.append(time.perf_counter()),
                on_epoch_end=lambda *_: took.append(time.perf_counter() - began[-1]),
            )
        ],
    )
    clock = time.perf_counter()
    for place in range(steps):
        feed[place]
    fed = (time.perf_counter() - clock) / steps
    return told(batch * steps, took[1:], device(), network) | {"feed_ms": round(1000 * fed, 2)}


def pytorch(network: str, batch: int, steps: int) -> dict[str, Any]:
    """The same network in PyTorch: compile, autocast to bfloat16, channels last, AdamW."""
    import torch

    from bench import plain

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    pixels, labels = batch_of(batch, SIZES[network])
    run = plain.stepper(network, pixels, labels, kind, "bfloat16", compiled=True)
    took = [run(steps) for _ in range(ROUNDS + 1)]
    name = torch.cuda.get_device_name() if kind == "cuda" else "cpu"
    return told(batch * steps, took[1:], name, network)


def told(images: int, seconds: list[float], name: str, network: str) -> dict[str, Any]:
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
    return 3 * 2 * float(sum(side**2 * inner * channels for side, inner, channels in layers))


def device() -> str:
    """What Keras computes on, with the maker's name of a GPU where the backend knows it."""
    from keras import backend, distribution

    if backend.backend() == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        return str(tf.config.experimental.get_device_details(found[0]).get("device_name")) if found else "cpu"
    return str(distribution.list_devices()[0])


if __name__ == "__main__":
    main()
