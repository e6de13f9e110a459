"""Written files have the same bytes on every Python, compressor and processor."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data import compression
from data.batch import lesion_grid
from data.core_types import Task
from data.deidentify import other_formats
from data.phantom import batch, study
from data.scan import thumbnail, zip_archive
from lineage import fingerprint
from serving.inference import heatmap

# SHA-256 of the files written here, computed on Python 3.11, 3.12 and 3.13; a change of the phantoms changes them
BATCHES = {
    "lung": "8f9ce30d054aabf4b6bb89e85ac4bdfdf520bf5890f3426b89557d2297a8d31d",
    "brain": "966a6e26ac552bd1e450ed712e79f92966671204db3dd996d5d22cd2e6d1a16b",
}
COPIES = "6c66f5e2830793afa3df2284ee5c12b65efb08849bde590421625c5418a2466d"
CONTAINERS = "5f7f2a75c0752e777d5375419de5244c41919ff183a8ac43b452737a8355aa24"


@pytest.fixture
def another_compressor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python whose zlib compresses differently and has another gzip header, as 3.13 and zlib-ng do."""
    compress = zlib.compress

    def compress_differently(content: bytes, /, level: int = -1, wbits: int = 15) -> bytes:
        return compress(content, 1, wbits)

    def packed(content: bytes, compresslevel: int = 9, *, mtime: float | None = None) -> bytes:
        stream = compress(content, 1, 31)
        return stream[:9] + b"\xff" + stream[10:]

    monkeypatch.setattr(zlib, "compress", compress_differently)
    monkeypatch.setattr(gzip, "compress", packed)


def steps() -> bytes:
    """Compressible bytes, computed with integers only."""
    return (np.arange(200_000) ** 2 // 7 % 251).astype(np.uint8).tobytes()


@pytest.mark.usefixtures("another_compressor")
@pytest.mark.parametrize("name", BATCHES)
def test_a_phantom_batch_has_the_same_bytes(name: str, lung: Task, brain: Task, tmp_path: Path) -> None:
    task = {"lung": lung, "brain": brain}[name]
    batch.write_batch(tmp_path, task, 6, study.usual_scanner(task), 31, slices=2, masks=True)
    assert fingerprint.digest(fingerprint.hash_folder(tmp_path)) == BATCHES[name]


@pytest.mark.usefixtures("another_compressor")
def test_de_identified_copies_have_the_same_bytes(brain: Task, tmp_path: Path) -> None:
    batch.write_batch(tmp_path, brain, 3, study.usual_scanner(brain), 31, slices=2)
    copies = [other_formats.clean_nifti(path.name, path.read_bytes()) for path in sorted(tmp_path.glob("*.nii.gz"))]
    assert len(copies) == 3 and all(zlib.decompress(copy, 31) for copy in copies)
    assert fingerprint.text_sha256("".join(copy.hex() for copy in copies)) == COPIES


@pytest.mark.usefixtures("another_compressor")
def test_archives_grids_thumbnails_and_heatmaps_have_the_same_bytes(tmp_path: Path) -> None:
    grids = {name: np.frombuffer(steps()[at : at + 1024], np.uint8).reshape(32, 32) for at, name in enumerate("ab")}
    lesion_grid.write_grids(tmp_path / "masks.npz", grids)
    written = {
        "gzip": compression.gzipped(steps(), 4),
        "zip": zip_archive.pack_files({"b": steps(), "a": b"one"}),
        "masks": (tmp_path / "masks.npz").read_bytes(),
        "thumbnail": thumbnail.encode_thumbnail(np.frombuffer(steps()[:1600], np.uint8).reshape(40, 40) % 64).encode(),
        "map": heatmap.png(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)),
    }
    assert fingerprint.digest({name: content.hex() for name, content in written.items()}) == CONTAINERS


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 200_000])
def test_compressed_content_is_restored(size: int) -> None:
    content = steps()[:size]
    assert zlib.decompress(compression.uncompressed_zlib(content)) == content
    assert gzip.decompress(compression.gzipped(content, 6)) == content


def test_thumbnails_of_older_manifests_are_read() -> None:
    """Until 2026-12 thumbnails were zlib streams of the Python that wrote them."""
    import base64

    grey = np.arange(1600, dtype=np.uint8).reshape(40, 40) % 64
    older = base64.b64encode(zlib.compress(grey.tobytes(), 6)).decode()
    column = pd.Series([older, thumbnail.encode_thumbnail(grey), ""])
    np.testing.assert_array_equal(thumbnail.decode_thumbnails(column), [grey, grey, np.zeros((40, 40))])


def test_no_other_code_calls_the_compressors_of_python() -> None:
    """Their bytes depend on the Python distribution."""
    root = Path(batch.__file__).parent.parent
    sources = [
        path
        for package in ("data", "serving", "training", "pipelines", "desk", "monitoring", "lineage")
        for path in (root / package).rglob("*.py")
    ]
    calls = re.compile(r"(gzip|zlib|bz2|lzma)\.compress|savez_compressed|GzipFile")
    assert not [path.name for path in sources if calls.search(path.read_text(encoding="utf-8"))]
