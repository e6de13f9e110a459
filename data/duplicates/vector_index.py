"""Vector index: approximate nearest neighbours of unit vectors. The only module that imports Faiss."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Positions = NDArray[np.int64]
SMALL = 2**14  # maximum vectors of an index that is searched linearly
LANES = 16  # vectors are padded to a multiple of this length
SAMPLE = 40  # training vectors per cell
PROBED = 12  # cells that a search visits; among 100,000 vectors 12 found 0.999 of the nearest 8, and 32 found all


def build(count: int, sample: Array, chunks: Iterable[tuple[Positions, Array]]) -> Any:
    """Build an index over `count` unit vectors from chunks of (numbers, vectors n × d).

    Up to 16,384 vectors it is a flat list. Above that it is an inverted file with about 4 √n cells (Jégou et al. 2011)
    and half-precision vectors; the cells are trained on `sample`. Building takes O(n √n), a query O(√n).
    """
    import faiss

    sample = _padded(sample)
    size = sample.shape[1]
    if count <= SMALL:
        index: Any = faiss.IndexIDMap(faiss.IndexFlatIP(size))
    else:
        cells = 2 ** round(np.log2(4 * np.sqrt(count)))
        quantizer = faiss.IndexFlatIP(size)
        kind = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(quantizer, size, cells, kind, faiss.METRIC_INNER_PRODUCT, False)
        index.cp.niter, index.cp.min_points_per_centroid, index.nprobe = 5, 1, PROBED
        index.train(np.ascontiguousarray(sample[:: -(-len(sample) // (SAMPLE * cells))]))
    for numbers, vectors in chunks:
        index.add_with_ids(_padded(vectors), numbers)
    return index


def build_in_memory(vectors: Array) -> Any:
    """Build an index over vectors in memory, n × d; their numbers are their positions."""
    return build(len(vectors), vectors, [(np.arange(len(vectors), dtype=np.int64), vectors)])


def search(index: Any, queries: Array, count: int) -> tuple[Array, Positions]:
    """The `count` nearest of each query: cosine similarities and numbers, n × count; number -1 if there are fewer."""
    cosines, numbers = index.search(_padded(queries), count)
    return np.asarray(cosines, np.float32), np.asarray(numbers, np.int64)


def _padded(vectors: Array) -> Array:
    """The vectors padded with zeros to a multiple of 16 numbers, for the SIMD code of Faiss; cosines do not change."""
    return np.pad(vectors, ((0, 0), (0, -vectors.shape[1] % LANES)))


def save(index: Any, path: Path) -> None:
    """Write an index file."""
    import faiss

    faiss.write_index(index, str(path))


def load(path: Path) -> Any:
    """Load an index file. Its vectors are memory-mapped and read on demand."""
    import faiss

    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    if hasattr(index, "nprobe"):
        index.nprobe = PROBED
    return index
