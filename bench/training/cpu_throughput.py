"""Images per second of fitting `small` on a CPU: as shipped, from memory alone, and in PyTorch.

    python bench/training/cpu_throughput.py
    python -m venv build/torch && build/torch/bin/pip install torch numpy
    python bench/training/cpu_throughput.py --torch-python build/torch/bin/python

Only this bench needs PyTorch, in a separate Python; without `--torch-python` its rows are not measured. Every row is a
process on the same cores. The rows take turns, so that other load on the machine affects all of them; the median of the
rounds counts, for ratios the median over the rounds. `fit` is what `oncoloop stage fit` runs: fed from memory,
augmented, AdamW. `memory` is the same network, optimizer and loop on one ready batch without augmentation, so the
difference is the cost of feeding and augmenting. PyTorch runs on one such batch too, channels last, in bfloat16 by
autocast and in float32.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages are beside bench/

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SIZE, CLASSES = 128, 3
OWN_ROWS = ("fit", "memory")
PYTORCH_ROWS = {"pytorch float32": "float32", "pytorch bfloat16": "bfloat16"}


def main() -> None:
    """Run the rows in turn and print the table, or run one of our own rows (`--one`)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", type=Path, help="a Python with PyTorch")
    parser.add_argument("--batch", type=int, default=16, help="as shipped in params.yaml")
    parser.add_argument("--steps", type=int, default=30, help="batches of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of ours")
    parser.add_argument("--json", action="store_true", help="the figures alone, as JSON")
    parser.add_argument("--one", choices=OWN_ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    if options.one:
        run_own_row(options)
        return
    rows = table(run_rounds(commands(options), options.rounds), options.batch * options.steps)
    if options.torch_python is None:
        rows += [
            {"row": name, "note": "not measured: name a Python with PyTorch by --torch-python"} for name in PYTORCH_ROWS
        ]
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    import pandas as pd

    sys.stdout.write(pd.DataFrame(rows).fillna("").to_string(index=False) + "\n")


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """The command of each row's process."""
    shared_options = [f"--{name}={getattr(options, name)}" for name in ("batch", "steps", "cores")]
    round_option, precision_option = f"--rounds={options.rounds}", f"--precision={options.precision}"
    rows = {
        name: [sys.executable, __file__, "--one", name, round_option, precision_option, *shared_options]
        for name in OWN_ROWS
    }
    if options.torch_python is not None:
        pytorch_command = [
            str(options.torch_python),
            str(ROOT / "bench" / "training" / "pytorch_networks.py"),
            f"--size={SIZE}",
            *shared_options,
        ]
        rows |= {
            name: [*pytorch_command, f"--precision={precision_option}"]
            for name, precision_option in PYTORCH_ROWS.items()
        }
    return rows


def run_rounds(rows: dict[str, list[str]], count: int) -> dict[str, list[float]]:
    """Seconds of each round of each row; in every round the rows run one after the other."""
    workers: dict[str, Any] = {}
    for name, command in rows.items():
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
    """Images per second of each row (median), and its median speed ratio to each other row over the rounds."""
    rows = []
    for name, row_seconds in seconds.items():
        row: dict[str, Any] = {"row": name, "images_per_second": round(images / statistics.median(row_seconds), 1)}
        for other_name, other_seconds in seconds.items():
            ratio = statistics.median(b / a for a, b in zip(row_seconds, other_seconds, strict=True))
            row |= {f"of {other_name}": round(ratio, 2)} if other_name != name else {}
        rows.append(row)
    return rows


def run_own_row(options: argparse.Namespace) -> None:
    """One long fit; each epoch is a round: it waits for a line on standard input and prints its seconds."""
    from dataclasses import replace

    import keras

    from data.dataset.shards import Units
    from pipelines import params
    from training.fitting import fine_tuning, training_loop
    from training.network import devices, model
    from training.settings import AugmentSettings

    shipped_params = params.load(ROOT)
    settings = replace(
        shipped_params.fit,
        backbone="small",
        batch_size=options.batch,
        epochs=options.rounds + 1,
        class_weights=False,
        precision=options.precision,
    )
    devices.make_deterministic(settings.seed)
    generator, count = np.random.default_rng(0), options.batch * options.steps
    pixels = generator.random((count, SIZE, SIZE, 1), np.float32)
    units = Units(None, pixels, np.arange(count) % CLASSES)  # type: ignore[arg-type]
    feed = training_loop.make_feed(units, settings, shipped_params.task("lung-ct"))
    network = model.build(settings, CLASSES, SIZE)
    if options.one == "memory":
        settings = replace(settings, augment=AugmentSettings(0, 0, 0, False, 0, 0, 0))
    trainer = training_loop.build_learning_model(
        network, settings, fine_tuning.stages(settings)[0], options.steps, ordered=False
    )
    if options.one == "memory":
        trainer = without_augmentation(network, trainer)
    epoch_start = [0.0]

    def start_round(epoch: int, _: Any) -> None:
        if epoch:
            sys.stdin.readline()
        feed.deal(epoch)
        epoch_start[0] = time.perf_counter()

    def end_round(epoch: int, _: Any) -> None:
        sys.stdout.write(f"{time.perf_counter() - epoch_start[0]:.6f}\n" if epoch else "ready\n")
        sys.stdout.flush()

    trainer.fit(
        repeat_first_batch(feed) if options.one == "memory" else feed.source(),
        epochs=settings.epochs,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=start_round, on_epoch_end=end_round)],
    )


def without_augmentation(network: Any, trainer: Any) -> Any:
    """The network without its augmentation, with the loss and optimizer of the trainer."""
    import keras

    pixels = keras.Input(network.input_shape[1:])
    model = keras.Model(pixels, network(pixels))
    model.compile(trainer.optimizer, trainer.loss, weighted_metrics=["accuracy"])
    return model


def repeat_first_batch(feed: Any) -> Any:
    """The first batch repeated, kept on the device if the backend allows that."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.data.Dataset.from_tensors(feed[0]).repeat(len(feed))

    class RepeatedBatch(keras.utils.PyDataset):  # type: ignore[misc]
        """The same batch at every index."""

        batch = feed[0]

        def __len__(self) -> int:
            return len(feed)

        def __getitem__(self, index: int) -> Any:
            return self.batch

    return RepeatedBatch()


if __name__ == "__main__":
    main()
