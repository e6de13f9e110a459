"""Images per second of fitting `small` on a CPU: as shipped, from memory alone, and beside the same in PyTorch.

    python bench/train.py
    python -m venv build/torch && build/torch/bin/pip install torch numpy
    python bench/train.py --torch-python build/torch/bin/python

PyTorch is a dependency of this bench alone and lives in a Python of its own; without `--torch-python` its rows say so.
Every row is a process on the same cores; they take turns, so that whatever else the machine does meets all of them,
and the median of the rounds counts, of ratios the median over the rounds. `fit` is what `oncoloop stage fit` runs (fed
from memory, augmented, AdamW); `memory` the same network, optimizer and loop on one batch that is there already,
without augmentation: what reading and augmenting cost is the difference. PyTorch sees one such batch too, channels
last, in bfloat16 by autocast and in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a bench reads the rooms beside it

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SIZE, CLASSES = 128, 3
OURS = ("fit", "memory")
THEIRS = {"pytorch float32": "float32", "pytorch bfloat16": "bfloat16"}


def main() -> None:
    """Let the rows take turns and print the table, or be one of ours (`--one`)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", type=Path, help="a Python that has PyTorch")
    parser.add_argument("--batch", type=int, default=16, help="as shipped in params.yaml")
    parser.add_argument("--steps", type=int, default=30, help="batches of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of ours")
    parser.add_argument("--json", action="store_true", help="the figures alone, as JSON")
    parser.add_argument("--one", choices=OURS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked.cores])
    if asked.one:
        ours(asked)
        return
    rows = table(rounds(commands(asked), asked.rounds), asked.batch * asked.steps)
    if asked.torch_python is None:
        rows += [{"row": name, "note": "not measured: name a Python with PyTorch by --torch-python"} for name in THEIRS]
    if asked.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    import pandas as pd

    sys.stdout.write(pd.DataFrame(rows).fillna("").to_string(index=False) + "\n")


def commands(asked: argparse.Namespace) -> dict[str, list[str]]:
    """The process of each row."""
    told = [f"--{name}={getattr(asked, name)}" for name in ("batch", "steps", "cores")]
    rounds, precision = f"--rounds={asked.rounds}", f"--precision={asked.precision}"
    found = {name: [sys.executable, __file__, "--one", name, rounds, precision, *told] for name in OURS}
    if asked.torch_python is not None:
        plain = [str(asked.torch_python), str(ROOT / "bench" / "plain.py"), f"--size={SIZE}", *told]
        found |= {name: [*plain, f"--precision={precision}"] for name, precision in THEIRS.items()}
    return found


def rounds(found: dict[str, list[str]], count: int) -> dict[str, list[float]]:
    """Seconds of the rounds of each row, one row after the other in every round."""
    workers: dict[str, Any] = {}
    for name, command in found.items():
        workers[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        if workers[name].stdout.readline() != "ready\n":
            sys.exit(f"the row {name} could not start; run it to see why: {' '.join(command)}")
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(count):
        for name, worker in workers.items():
            worker.stdin.write("go\n")
            worker.stdin.flush()
            seconds[name].append(float(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return seconds


def table(seconds: dict[str, list[float]], images: int) -> list[dict[str, Any]]:
    """Images a second of each row (median), and how many times as fast as each of the others it was, round by round."""
    rows = []
    for name, mine in seconds.items():
        row: dict[str, Any] = {"row": name, "images_per_second": round(images / statistics.median(mine), 1)}
        for other, theirs in seconds.items():
            ratio = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
            row |= {f"of {other}": round(ratio, 2)} if other != name else {}
        rows.append(row)
    return rows


def ours(asked: argparse.Namespace) -> None:
    """One long fit of which every epoch is a round: it waits for a line before it and answers with its seconds."""
    from dataclasses import replace

    import keras

    from data.dataset.shards import Units
    from pipelines import params
    from training.fitting import fine_tuning, training_loop
    from training.network import devices, model
    from training.settings import AugmentSettings

    shipped = params.load(ROOT)
    settings = replace(
        shipped.fit,
        backbone="small",
        batch_size=asked.batch,
        epochs=asked.rounds + 1,
        class_weights=False,
        precision=asked.precision,
    )
    devices.deterministic(settings.seed)
    random, count = np.random.default_rng(0), asked.batch * asked.steps
    pixels = random.random((count, SIZE, SIZE, 1), np.float32)
    units = Units(None, pixels, np.arange(count) % CLASSES)  # type: ignore[arg-type]
    feed = training_loop.feed_of(units, settings, shipped.task("lung-ct"))
    network = model.build(settings, CLASSES, SIZE)
    if asked.one == "memory":
        settings = replace(settings, augment=AugmentSettings(0, 0, 0, False, 0, 0, 0))
    made = training_loop.learner(network, settings, fine_tuning.stages(settings)[0], asked.steps, ordered=False)
    if asked.one == "memory":
        made = plain(network, made)
    clock = [0.0]

    def begin(epoch: int, _: Any) -> None:
        if epoch:
            sys.stdin.readline()
        feed.deal(epoch)
        clock[0] = time.perf_counter()

    def end(epoch: int, _: Any) -> None:
        sys.stdout.write(f"{time.perf_counter() - clock[0]:.6f}\n" if epoch else "ready\n")
        sys.stdout.flush()

    made.fit(
        memory(feed) if asked.one == "memory" else feed.source(),
        epochs=settings.epochs,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)],
    )


def plain(network: Any, like: Any) -> Any:
    """The network without augmentation before it, with the same loss and optimizer."""
    import keras

    pixels = keras.Input(network.input_shape[1:])
    made = keras.Model(pixels, network(pixels))
    made.compile(like.optimizer, like.loss, weighted_metrics=["accuracy"])
    return made


def memory(feed: Any) -> Any:
    """The first batch again and again, ready on the device where the backend allows that."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.data.Dataset.from_tensors(feed[0]).repeat(len(feed))

    class Still(keras.utils.PyDataset):  # type: ignore[misc]
        """The same batch at every place."""

        first = feed[0]

        def __len__(self) -> int:
            return len(feed)

        def __getitem__(self, place: int) -> Any:
            return self.first

    return Still()


if __name__ == "__main__":
    main()
