"""Several devices: they share every batch, and the results are those of one device."""

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
used = []
for count in (1, 2):
    settings = replace(samples.FIT, epochs=2, devices=count, learning_rate=0.001)
    report = fit.fit(samples.units(), samples.TASK, settings, Path(sys.argv[2]) / str(count))
    used.append(report.device)
messages = []
for count, size in ((3, 33), (2, 31)):
    try:
        devices.select_devices(count, size)
    except Fault as fault:
        messages.append(str(fault))
print(json.dumps({"used": used, "messages": messages, "default": devices.select_devices(0, 32)}))
"""


@pytest.fixture(scope="module")
def fitted(samples: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The same fit on one and on two of JAX's CPU devices."""
    pytest.importorskip("jax", reason="the extra `jax` is not installed")
    folder = tmp_path_factory.mktemp("devices")
    process = subprocess.run(
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
    assert process.returncode == 0, process.stderr[-3000:]
    return folder, json.loads(process.stdout.splitlines()[-1])


def test_two_devices_give_the_results_of_one(fitted: tuple[Path, Any]) -> None:
    folder, output = fitted
    assert output["used"] == ["cpu:0", "cpu:0, cpu:1"]
    first, second = (np.load(folder / count / "expected.npz")["probabilities"] for count in ("1", "2"))
    assert np.abs(first - second).max() < 5e-3
    assert np.ptp(first, axis=0).max() > 0.05, "the network is not constant"


def test_a_batch_that_cannot_be_divided_is_refused(fitted: tuple[Path, Any]) -> None:
    _, output = fitted
    assert "fit.devices is 3, but this machine has 2 (cpu:0, cpu:1)" in output["messages"][0]
    assert "fit.batch_size 31 can't be divided among 2 devices; take a multiple of 2" in output["messages"][1]
    assert output["default"] == ["cpu:0"], "several CPUs only on request"


def test_tensorflow_uses_one_device() -> None:
    assert len(devices.select_devices(0, 16)) == 1
    with pytest.raises(Fault, match=r"fit\.devices is 64, but this machine has"):
        devices.select_devices(64, 64)
