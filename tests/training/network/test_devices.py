"""Several devices: each takes its share of every batch, and the weights are those of one device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineage.errors import Fault
from training.network import devices

pytestmark = pytest.mark.usefixtures("home")
DEVICES = """
sys.modules["tensorflow"] = None
from training.fitting import fit; from training.network import devices
from lineage.errors import Fault
import jax
held = []
for count in (1, 2):
    settings = replace(samples.FIT, epochs=2, devices=count, learning_rate=0.001)
    report = fit.fit(samples.units(), samples.TASK, settings, Path(sys.argv[2]) / str(count))
    held.append(report.device)
told = []
for count, size in ((3, 33), (2, 31)):
    try:
        devices.chosen(count, size)
    except Fault as fault:
        told.append(str(fault))
print(json.dumps({"held": held, "told": told, "default": devices.chosen(0, 32)}))
"""


@pytest.fixture(scope="module")
def fitted(samples: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The same fit on one and on two of JAX's CPU devices."""
    pytest.importorskip("jax", reason="the extra `jax` is not installed")
    folder = tmp_path_factory.mktemp("devices")
    ran = subprocess.run(
        [sys.executable, "-c", samples.PROGRAM + DEVICES, str(samples.__file__), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            "KERAS_BACKEND": "jax",
            "ONCOLOOP_HOME": str(folder / "var"),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        },
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return folder, json.loads(ran.stdout.splitlines()[-1])


def test_two_devices_learn_what_one_learns(fitted: tuple[Path, Any]) -> None:
    folder, told = fitted
    assert told["held"] == ["cpu:0", "cpu:0, cpu:1"]
    one, two = (np.load(folder / count / "expected.npz")["probabilities"] for count in ("1", "2"))
    assert np.abs(one - two).max() < 5e-3
    assert np.ptp(one, axis=0).max() > 0.05, "it did learn something"


def test_what_can_not_be_divided_is_told(fitted: tuple[Path, Any]) -> None:
    _, told = fitted
    assert "fit.devices is 3, but this machine has 2 (cpu:0, cpu:1)" in told["told"][0]
    assert "fit.batch_size 31 can't be divided among 2 devices; take a multiple of 2" in told["told"][1]
    assert told["default"] == ["cpu:0"], "CPUs are several only where somebody asks for it"


def test_tensorflow_takes_one() -> None:
    assert len(devices.chosen(0, 16)) == 1
    with pytest.raises(Fault, match=r"fit\.devices is 64, but this machine has"):
        devices.chosen(64, 64)
