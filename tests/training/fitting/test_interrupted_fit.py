"""A killed fit resumes after its last complete epoch with the same result; a damaged checkpoint starts again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from training.fitting import checkpoint

pytestmark = pytest.mark.usefixtures("home")
FIT_PROGRAM = """
from training.fitting import fit
fit.fit(samples.units(), samples.TASK, replace(samples.FIT, epochs=12, patience=12), Path(sys.argv[2]))
"""

LIMITED_PROGRAM = """
from training.fitting import fit
import resource
import numpy as np
import tensorflow
task = replace(samples.TASK, pixels=replace(samples.TASK.pixels, size=256))
units = replace(samples.units(40), pixels=np.zeros((80, 256, 256, 1), np.float32))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 1_600_000_000,) * 2)
fit.fit(units, task, replace(samples.FIT, backbone="vgg16", batch_size=80, epochs=1), Path(sys.argv[2]))
"""


def kill_fit(home: Path, samples: Any, folder: Path) -> None:
    """Run a fit in a child process and kill it (SIGKILL) after its first checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-c", samples.PROGRAM + FIT_PROGRAM, str(samples.__file__), str(folder)]
    )
    deadline = time.monotonic() + 120
    try:
        while not list((home / "checkpoints").glob("*.npz")):
            assert process.poll() is None and time.monotonic() < deadline, "the fit ended before it could be killed"
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def test_a_killed_fit_resumes_and_ends_with_the_same_weights(home: Path, samples: Any, tmp_path: Path) -> None:
    from training.fitting import fit

    settings = replace(samples.FIT, epochs=12, patience=12)
    kill_fit(home, samples, tmp_path / "models")
    assert not (tmp_path / "models" / "fit.json").exists()
    assert not (tmp_path / "models" / "graph.onnx").exists()
    resumed = fit.fit(samples.units(), samples.TASK, settings, tmp_path / "models")
    assert 1 <= resumed.resumed_epochs < 12
    assert not list((home / "checkpoints").iterdir()), "a finished fit leaves no checkpoint"
    uninterrupted = fit.fit(samples.units(), samples.TASK, settings, tmp_path / "whole")
    assert uninterrupted.resumed_epochs == 0
    assert resumed.weights_sha256 == uninterrupted.weights_sha256
    assert resumed.graph_sha256 == uninterrupted.graph_sha256
    first, second = (pd.read_csv(tmp_path / name / "history.csv") for name in ("models", "whole"))
    pd.testing.assert_frame_equal(first, second)


def test_other_settings_images_or_labels_have_another_checkpoint(home: Path, samples: Any) -> None:
    units, settings = samples.units(40), samples.FIT
    training, validation = (units.where(units.table["side"] == side) for side in ("training", "validation"))
    first = checkpoint.checkpoint_path(training, validation, samples.TASK, settings, ("tensorflow", "cpu"))
    assert first == checkpoint.checkpoint_path(training, validation, samples.TASK, settings, ("tensorflow", "cpu"))
    assert first.parent == home / "checkpoints"
    other_paths = [
        checkpoint.checkpoint_path(
            training, validation, samples.TASK, replace(settings, seed=8), ("tensorflow", "cpu")
        ),
        checkpoint.checkpoint_path(training, validation, samples.TASK, settings, ("jax", "cpu")),
    ]
    training.labels[0] = (training.labels[0] + 1) % 3
    other_paths.append(checkpoint.checkpoint_path(training, validation, samples.TASK, settings, ("tensorflow", "cpu")))
    training.pixels[0, 0, 0, 0] += 0.001
    other_paths.append(checkpoint.checkpoint_path(training, validation, samples.TASK, settings, ("tensorflow", "cpu")))
    assert len({first, *other_paths}) == 5


def test_abandoned_checkpoints_of_the_task_are_removed(home: Path, samples: Any) -> None:
    units = samples.units(40)
    folder = home / "checkpoints"
    folder.mkdir(parents=True)
    for name, age in (("lung-ct-old.npz", 90_000), ("lung-ct-young.npz", 60), ("brain-mr-old.npz", 90_000)):
        (folder / name).write_bytes(b"kept")
        os.utime(folder / name, (time.time() - age,) * 2)
    checkpoint.checkpoint_path(units, units, samples.TASK, samples.FIT, ())
    assert {path.name for path in folder.iterdir()} == {"lung-ct-young.npz", "brain-mr-old.npz"}


def test_progress_is_loaded_as_it_was_saved(samples: Any, tmp_path: Path) -> None:
    progress = checkpoint.Progress()
    for loss in (0.9, 0.5, 0.4995, 0.3, 0.6):
        state = (np.full((2, 3), loss, np.float32), np.array(7))
        progress = checkpoint.add_epoch(progress, {"loss": loss, "val_loss": loss}, state[:1], state, samples.FIT)
    assert progress.best_epoch(samples.FIT) == 4  # 0.4995 is an improvement of less than MIN_IMPROVEMENT over 0.5
    assert float(progress.best[0][0, 0]) == np.float32(0.3)
    checkpoint.save(tmp_path / "kept.npz", progress)
    loaded = checkpoint.load(tmp_path / "kept.npz")
    assert loaded.history == progress.history
    for loaded_arrays, saved_arrays in ((loaded.best, progress.best), (loaded.state, progress.state)):
        assert all(
            np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(loaded_arrays, saved_arrays, strict=True)
        )
    assert not list(tmp_path.glob("*.part"))


def test_patience_counts_from_the_best_epoch(samples: Any) -> None:
    settings = replace(samples.FIT, epochs=10, patience=2)
    records = [{"loss": loss, "val_loss": loss} for loss in (0.9, 0.5, 0.5, 0.5)]
    progress, is_finished = checkpoint.Progress(), []
    for record in records:
        progress = checkpoint.add_epoch(progress, record, (), (), settings)
        is_finished.append(progress.is_finished(settings))
    assert is_finished == [False, False, False, True]
    assert not checkpoint.Progress().is_finished(settings)


def test_without_patience_all_epochs_run_and_the_last_is_the_best(samples: Any) -> None:
    settings, progress, is_finished = replace(samples.FIT, epochs=4, patience=0), checkpoint.Progress(), []
    for loss in (0.5, 0.6, 0.7, 0.8):
        record = {"loss": loss, "val_loss": loss}
        progress = checkpoint.add_epoch(progress, record, (np.array(loss),), (), settings)
        is_finished.append(progress.is_finished(settings))
    assert is_finished == [False, False, False, True]
    assert progress.best_epoch(settings) == 4 and float(progress.best[0]) == 0.8


@pytest.mark.parametrize("length", [0, 10, 200, -30])
def test_a_damaged_checkpoint_is_logged_and_the_fit_starts_again(
    length: int, samples: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = {"loss": 1.0, "val_loss": 1.0}
    progress = checkpoint.add_epoch(checkpoint.Progress(), record, (np.ones(9),), (np.ones(9),), samples.FIT)
    checkpoint.save(tmp_path / "kept.npz", progress)
    content = (tmp_path / "kept.npz").read_bytes()
    (tmp_path / "kept.npz").write_bytes(content[:length])
    assert checkpoint.load(tmp_path / "kept.npz") == checkpoint.Progress()
    assert "is damaged" in caplog.text


def test_a_device_out_of_memory_gives_one_clear_error(samples: Any, tmp_path: Path) -> None:
    """VGG-16 in a process with a memory limit: the allocator of the backend really fails."""
    program = samples.PROGRAM + LIMITED_PROGRAM
    process = subprocess.run(
        [sys.executable, "-c", program, str(samples.__file__), str(tmp_path / "models")],
        text=True,
        env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0"},
        capture_output=True,
        check=False,
    )
    message = "ran out of memory at fit.batch_size 80 and size 256; lower fit.batch_size, or take a smaller backbone"
    assert process.returncode == 1 and message in process.stderr, process.stderr[-2000:]
    assert list((tmp_path / "models").iterdir()) == []
