"""Run the frozen encoder on prepared slices."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.scan.preprocess import resize_by_area
from lineage.errors import Fault
from serving.descriptor.encoder_graph import SIZE, VECTOR
from serving.inference.graph import Infer, compile_graph, run_in_chunks

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Descriptor:
    """The compiled encoder, float32 on every machine. Threads may share it."""

    streams: int
    infer: Infer = field(repr=False)

    @classmethod
    def load(cls, path: Path, engine: str = "openvino") -> Descriptor:
        """Compile the encoder's ONNX file. Raises Fault for an absent or unexpected file."""
        if not path.is_file():
            raise Fault(f"{path}: the encoder's graph is missing; build the release again")
        compiled = compile_graph(path, engine, "float32", (VECTOR,))
        if compiled["size"] != SIZE:
            raise Fault(f"{path}: the encoder takes {compiled['size']} pixels, not {SIZE}; build the release again")
        return cls(compiled["streams"], compiled["infer"])

    def vectors(self, prepared: Array) -> Array:
        """The vectors (n, 320) of prepared slices (n, size, size, 1) in [0, 1], whatever their size."""
        if prepared.shape[1] != SIZE:
            prepared = np.stack([resize_by_area(slice_[:, :, 0], SIZE, SIZE) for slice_ in prepared])[..., np.newaxis]
        (vectors,) = run_in_chunks(self.infer, prepared, SIZE, self.streams)
        return vectors
