"""The only door to Faiss: the nearest of many unit vectors, without comparing each with each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Positions = NDArray[np.int64]
SMALL = 2**14  # vectors that are looked through one by one
LANES = 16  # numbers
SAMPLE = 40  # vectors for each cell, to learn the cells from
PROBED = 12  # cells that a search looks into: 0.999 of the nearest 8 were found among 100,000, with 32 all


def build(count: int, sample: Array, chunks: Iterable[tuple[Positions, Array]]) -> Any:
    """An index over `count` unit vectors that come in chunks of (numbers, vectors n × d).

    Up to 16,384 vectors it is a plain list; above, an inverted file of about 4 √n cells (Jégou et al. 2011) of
    half-precision vectors, whose cells are learned from `sample`. Building costs n √n, searching √n for each query.
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


def built(vectors: Array) -> Any:
    """An index over vectors that are in memory, n × d; their numbers are their positions."""
    return build(len(vectors), vectors, [(np.arange(len(vectors), dtype=np.int64), vectors)])


def search(index: Any, queries: Array, count: int) -> tuple[Array, Positions]:
    """The `count` nearest of each query: cosine similarities and numbers, n × count; number -1 where there are less."""
    alike, numbers = index.search(_padded(queries), count)
    return np.asarray(alike, np.float32), np.asarray(numbers, np.int64)


def _padded(vectors: Array) -> Array:
    """The vectors with zeros up to a multiple of 16 numbers, which Faiss compares many at once; cosines stay."""
    return np.pad(vectors, ((0, 0), (0, -vectors.shape[1] % LANES)))


def save(index: Any, path: Path) -> None:
    """Write an index file."""
    import faiss

    faiss.write_index(index, str(path))


def load(path: Path) -> Any:
    """An index out of its file; the vectors stay there and are mapped into memory as they are asked for."""
    import faiss

    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    if hasattr(index, "nprobe"):
        index.nprobe = PROBED
    return index
