"""A killed fit goes on after its last whole epoch and ends where it would have; a damaged trace begins anew."""

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
FITTED = """
from training.fitting import fit
fit.fit(samples.units(), samples.TASK, replace(samples.FIT, epochs=12, patience=12), Path(sys.argv[2]))
"""

LIMITED = """
from training.fitting import fit
import resource
import numpy as np
import tensorflow
task = replace(samples.TASK, pixels=replace(samples.TASK.pixels, size=256))
units = replace(samples.units(40), pixels=np.zeros((80, 256, 256, 1), np.float32))
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 1_600_000_000,) * 2)
fit.fit(units, task, replace(samples.FIT, backbone="vgg16", batch_size=80, epochs=1), Path(sys.argv[2]))
"""


def killed(home: Path, samples: Any, folder: Path) -> None:
    """A fit in a process of its own, killed without a word once it has kept an epoch."""
    process = subprocess.Popen([sys.executable, "-c", samples.PROGRAM + FITTED, str(samples.__file__), str(folder)])
    until = time.monotonic() + 120
    try:
        while not list((home / "checkpoints").glob("*.npz")):
            assert process.poll() is None and time.monotonic() < until, "the fit ended before it could be killed"
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def test_a_killed_fit_goes_on_and_ends_with_the_same_weights(home: Path, samples: Any, tmp_path: Path) -> None:
    from training.fitting import fit

    settings = replace(samples.FIT, epochs=12, patience=12)
    killed(home, samples, tmp_path / "models")
    assert not (tmp_path / "models" / "fit.json").exists()
    assert not (tmp_path / "models" / "graph.onnx").exists()
    resumed = fit.fit(samples.units(), samples.TASK, settings, tmp_path / "models")
    assert 1 <= resumed.resumed_epochs < 12
    assert not list((home / "checkpoints").iterdir()), "what is finished leaves no trace"
    whole = fit.fit(samples.units(), samples.TASK, settings, tmp_path / "whole")
    assert whole.resumed_epochs == 0
    assert resumed.weights_sha256 == whole.weights_sha256
    assert resumed.graph_sha256 == whole.graph_sha256
    first, second = (pd.read_csv(tmp_path / name / "history.csv") for name in ("models", "whole"))
    pd.testing.assert_frame_equal(first, second)


def test_another_setting_picture_or_label_is_another_fit(home: Path, samples: Any) -> None:
    units, settings = samples.units(40), samples.FIT
    training, validation = (units.where(units.table["side"] == side) for side in ("training", "validation"))
    first = checkpoint.checkpoint(training, validation, samples.TASK, settings, ("tensorflow", "cpu"))
    assert first == checkpoint.checkpoint(training, validation, samples.TASK, settings, ("tensorflow", "cpu"))
    assert first.parent == home / "checkpoints"
    others = [
        checkpoint.checkpoint(training, validation, samples.TASK, replace(settings, seed=8), ("tensorflow", "cpu")),
        checkpoint.checkpoint(training, validation, samples.TASK, settings, ("jax", "cpu")),
    ]
    training.labels[0] = (training.labels[0] + 1) % 3
    others.append(checkpoint.checkpoint(training, validation, samples.TASK, settings, ("tensorflow", "cpu")))
    training.pixels[0, 0, 0, 0] += 0.001
    others.append(checkpoint.checkpoint(training, validation, samples.TASK, settings, ("tensorflow", "cpu")))
    assert len({first, *others}) == 5


def test_abandoned_checkpoints_of_the_task_are_removed(home: Path, samples: Any) -> None:
    units = samples.units(40)
    folder = home / "checkpoints"
    folder.mkdir(parents=True)
    for name, age in (("lung-ct-old.npz", 90_000), ("lung-ct-young.npz", 60), ("brain-mr-old.npz", 90_000)):
        (folder / name).write_bytes(b"kept")
        os.utime(folder / name, (time.time() - age,) * 2)
    checkpoint.checkpoint(units, units, samples.TASK, samples.FIT, ())
    assert {path.name for path in folder.iterdir()} == {"lung-ct-young.npz", "brain-mr-old.npz"}


def test_progress_comes_back_as_it_was_kept(samples: Any, tmp_path: Path) -> None:
    done = checkpoint.Progress()
    for loss in (0.9, 0.5, 0.4995, 0.3, 0.6):
        state = (np.full((2, 3), loss, np.float32), np.array(7))
        done = checkpoint.after(done, {"loss": loss, "val_loss": loss}, state[:1], state, samples.FIT)
    assert done.best_epoch(samples.FIT) == 4  # 0.4995 is not better enough than 0.5 to count
    assert float(done.best[0][0, 0]) == np.float32(0.3)
    checkpoint.save(tmp_path / "kept.npz", done)
    again = checkpoint.load(tmp_path / "kept.npz")
    assert again.history == done.history
    for mine, theirs in ((again.best, done.best), (again.state, done.state)):
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(mine, theirs, strict=True))
    assert not list(tmp_path.glob("*.part"))


def test_patience_counts_from_the_best_epoch(samples: Any) -> None:
    settings = replace(samples.FIT, epochs=10, patience=2)
    records = [{"loss": loss, "val_loss": loss} for loss in (0.9, 0.5, 0.5, 0.5)]
    reached, ended = checkpoint.Progress(), []
    for record in records:
        reached = checkpoint.after(reached, record, (), (), settings)
        ended.append(reached.ended(settings))
    assert ended == [False, False, False, True]
    assert not checkpoint.Progress().ended(settings)


def test_without_patience_every_epoch_is_done_and_the_last_is_kept(samples: Any) -> None:
    settings, reached, ended = replace(samples.FIT, epochs=4, patience=0), checkpoint.Progress(), []
    for loss in (0.5, 0.6, 0.7, 0.8):
        record = {"loss": loss, "val_loss": loss}
        reached = checkpoint.after(reached, record, (np.array(loss),), (), settings)
        ended.append(reached.ended(settings))
    assert ended == [False, False, False, True]
    assert reached.best_epoch(settings) == 4 and float(reached.best[0]) == 0.8


@pytest.mark.parametrize("cut", [0, 10, 200, -30])
def test_a_damaged_checkpoint_is_named_and_the_fit_begins_again(
    cut: int, samples: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = {"loss": 1.0, "val_loss": 1.0}
    done = checkpoint.after(checkpoint.Progress(), record, (np.ones(9),), (np.ones(9),), samples.FIT)
    checkpoint.save(tmp_path / "kept.npz", done)
    whole = (tmp_path / "kept.npz").read_bytes()
    (tmp_path / "kept.npz").write_bytes(whole[:cut])
    assert checkpoint.load(tmp_path / "kept.npz") == checkpoint.Progress()
    assert "is damaged" in caplog.text


def test_memory_that_is_not_there_is_told_in_one_sentence(samples: Any, tmp_path: Path) -> None:
    """VGG-16 in a process that may not hold one more of its layers: the allocator of the backend really says no."""
    program = samples.PROGRAM + LIMITED
    ran = subprocess.run(
        [sys.executable, "-c", program, str(samples.__file__), str(tmp_path / "models")],
        text=True,
        env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0"},
        capture_output=True,
        check=False,
    )
    told = "ran out of memory at fit.batch_size 80 and size 256; lower fit.batch_size, or take a smaller backbone"
    assert ran.returncode == 1 and told in ran.stderr, ran.stderr[-2000:]
    assert list((tmp_path / "models").iterdir()) == []
