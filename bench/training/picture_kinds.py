"""The share of pictures of every kind that the test of a task refuses, by split of its patients.

    .venv/bin/python bench/training/picture_kinds.py [--splits 3] [--pictures FOLDER ...]

Tasks: lung CT pictures, crops of lung nodules, brain MR (ONCOLOOP_REAL_DATA), and phantoms of three organs. For each
split, half of the clusters are fitted, 30 % give the limit, 20 % are the task's own kind. Other kinds: every other set,
the DICOM files of dicom-zoo by modality, chest CT of another hospital, documents, noise, inverted slices, photographs
of scikit-learn, and pictures (JPEG, PNG) of each folder of `--pictures`. A kind is left out of every fit. The limit
and the recipe never see it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data.core_types import Modality, PixelSettings, ValueUnit
from data.dataset.shards import Units
from data.phantom import study
from data.scan import preprocess, read
from data.scan.preprocess import unit_pixels
from lineage.errors import Fault
from pipelines import params
from serving.descriptor import encoder_graph, picture_kind
from serving.inference.gate import BLANK_CONTRAST
from training.picture_kind import fit

Array = NDArray[np.float32]
Kind = tuple[Array, NDArray[Any]]  # prepared slices (n, 128, 128, 1) and their clusters (n)
CT_PIXELS, MR_PIXELS = PixelSettings(128, (-400, 1500)), PixelSettings(128, None)
ENDS = (0.5, 0.8)  # of the shares of clusters that are fitted, and that give the limit
LUNG_KINDS = ("lung CT", "chest CT, another hospital", "phantom lung-ct", "nodule crops")
RELATED = {  # not clearly another kind: the same organ and modality
    "lung CT": LUNG_KINDS,
    "nodule crops": LUNG_KINDS,
    "phantom lung-ct": LUNG_KINDS,
    "brain MR": ("phantom brain-mr", "zoo MR"),
    "phantom brain-mr": ("brain MR", "zoo MR"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--pictures", type=Path, action="append", default=[])
    options = parser.parse_args()
    os.environ["ONCOLOOP_HOME"] = tempfile.mkdtemp()
    data = Path(os.environ["ONCOLOOP_REAL_DATA"])
    tasks = {
        "lung CT": _lung(data),
        "nodule crops": _nodules(data),
        "brain MR": _brain(data),
        **{f"phantom {name}": _phantoms(name) for name in ("lung-ct", "pancreas-ct", "brain-mr")},
    }
    others = {"chest CT, another hospital": _dicom(data / "chest-ct-tcga-luad-dicom"), **_zoo(data)}
    others |= {"documents": _documents(), "noise": _noise(), "photographs": _photographs()}
    others |= {folder.name: _pictures(folder) for folder in options.pictures}
    everything = {name: pixels for name, (pixels, _) in tasks.items()} | others
    vectors = {name: fit.encoder().vectors(pixels) for name, pixels in everything.items()}
    rows = [
        row
        for task, (pixels, clusters) in tasks.items()
        for row in _refused(task, pixels, clusters, vectors, options.splits)
    ]
    table = pd.DataFrame(rows).groupby(["task", "relation", "kind"], sort=False)["refused"].agg(["mean", "min", "max"])
    sys.stdout.write(table.map("{:.1%}".format).to_string() + "\n")
    sys.stdout.write(f"one slice takes {_milliseconds(tasks['brain MR'][0][:1]):.1f} ms\n")
    sys.stdout.write(f"a process with the encoder and one test needs {_megabytes():.0f} MB more\n")


def _refused(
    task: str, pixels: Array, clusters: NDArray[Any], vectors: dict[str, Array], splits: int
) -> Iterator[dict[str, Any]]:
    """The refused share of each kind, for each split of the clusters."""
    for seed in range(splits):
        names = np.random.default_rng(seed).permutation(np.unique(clusters))
        first, second = (min(max(1, round(share * len(names))), len(names) - 1) for share in ENDS)
        is_training, is_own = np.isin(clusters, names[:first]), np.isin(clusters, names[second:])
        sides = np.where(is_training, "training", "test")[~is_own]
        units = Units(pd.DataFrame({"side": sides}), pixels[~is_own], np.zeros(len(sides), np.int64))
        kind = fit.fit(units, seed)
        if kind is None:
            raise SystemExit(f"{task}: too few clusters")
        inverted = fit.encoder().vectors(1 - pixels[is_own])
        tested = {"own": vectors[task][is_own], "inverted": inverted, **{k: v for k, v in vectors.items() if k != task}}
        for name, values in tested.items():
            related = name in RELATED.get(task, ())
            yield {
                "task": task,
                "relation": "own" if name == "own" else "related" if related else "other",
                "kind": name,
                "refused": float((kind.likeness(values) < kind.limit).mean()),
            }


def _milliseconds(slice_: Array) -> float:
    """The median time to describe one slice and judge it."""
    descriptor, random = fit.encoder(), np.random.default_rng(0)
    vectors = random.normal(size=(200, encoder_graph.WIDTH)).astype(np.float32)
    kind, times = fit.fit_vectors(vectors[:100], vectors[100:], seed=0), []
    for _ in range(50):
        started = time.perf_counter()
        kind.likeness(descriptor.vectors(slice_))
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def _megabytes() -> float:
    """The memory that the encoder and one test add to a process that has OpenVINO loaded by another graph."""
    program = (
        "import sys, psutil, numpy as np\n"
        "from pathlib import Path\n"
        "from serving.inference.descriptor import Descriptor\n"
        "from serving.descriptor import picture_kind\n"
        "def size(): return psutil.Process().memory_info().rss / 1e6\n"
        "graph, kind = map(Path, sys.argv[1:])\n"
        "pixels = np.zeros((1, 128, 128, 1), np.float32)\n"
        "Descriptor.load(graph).vectors(pixels)\n"
        "before = size()\n"
        "descriptor, test = Descriptor.load(graph), picture_kind.load(kind)\n"
        "test.likeness(descriptor.vectors(pixels))\n"
        "print(size() - before)\n"
    )
    vectors = np.random.default_rng(0).normal(size=(200, encoder_graph.WIDTH)).astype(np.float32)
    folder = Path(os.environ["ONCOLOOP_HOME"])
    picture_kind.save(folder / "kind.npz", fit.fit_vectors(vectors[:100], vectors[100:], seed=0))
    encoder_graph.write_graph(folder / "encoder.onnx")
    command = [sys.executable, "-c", program, str(folder / "encoder.onnx"), str(folder / "kind.npz")]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _prepare(path: Path) -> Array:
    scan = read.read_scan(path.name, path.read_bytes())
    prepared = preprocess.scan_pixels(scan, CT_PIXELS if scan.modality is Modality.CT else MR_PIXELS)
    return prepared[prepared.std(axis=(1, 2, 3)) >= BLANK_CONTRAST]


def _lung(data: Path) -> Kind:
    folder = data / "lung-ct-iq-oth-nccd"
    files = {path.name: path for path in folder.rglob("*.jpg")}
    table = pd.read_csv(folder / "groups.csv")
    table = table[table["file"].map(lambda name: Path(name).name in files)]
    return np.concatenate([_prepare(files[Path(name).name]) for name in table["file"]]), table["group"].to_numpy()


def _nodules(data: Path) -> Kind:
    folder = data / "lung-nodules-lidc"
    table = pd.read_csv(folder / "nodules.csv")
    return np.concatenate([_prepare(folder / name) for name in table["file"]]), table["patient"].to_numpy()


def _brain(data: Path) -> Kind:
    volumes = [
        (path.parent.name, _prepare(path))
        for path in sorted((data / "brain-mr-tumor-progression").glob("*/*_Scan_T1.nii.gz"))
    ]
    clusters = np.concatenate([np.full(len(pixels), patient) for patient, pixels in volumes])
    return np.concatenate([pixels for _, pixels in volumes]), clusters


def _phantoms(name: str) -> Kind:
    task = params.load(Path(__file__).resolve().parents[2]).tasks[name]
    unit = ValueUnit.HU if task.modality is Modality.CT else ValueUnit.RAW
    planes, clusters = [], []
    for number in range(100):
        phantom = study.make_study(
            task, study.usual_scanner(task), 5, number, (task.classes[0], task.positive[0])[number % 2]
        )
        for index in (3, 5, 7):
            planes.append(unit_pixels(phantom.slice(index, 11)[0].astype(np.float32), unit, task.pixels))
            clusters.append(number)
    return np.stack(planes), np.array(clusters)


def _dicom(folder: Path) -> Array:
    return np.concatenate([_prepare(path) for path in sorted(folder.glob("*.dcm"))])


def _zoo(data: Path) -> dict[str, Array]:
    """The readable files of dicom-zoo by modality, where there are at least 20 slices; at most 8 of a file."""
    slices = defaultdict(list)
    for path in sorted((data / "dicom-zoo").rglob("*")):
        try:
            scan = read.read_scan(path.name, path.read_bytes()) if path.is_file() else None
            if scan is not None and scan.header.get("modality"):
                prepared = preprocess.scan_pixels(scan, CT_PIXELS if scan.modality is Modality.CT else MR_PIXELS)
                slices[scan.header["modality"]].append(prepared[prepared.std(axis=(1, 2, 3)) >= BLANK_CONTRAST][:8])
        except Fault:
            continue  # a broken file, which serving refuses
    joined = {f"zoo {modality}": np.concatenate(parts) for modality, parts in slices.items()}
    return {name: pixels for name, pixels in joined.items() if len(pixels) >= 20}


def _documents() -> Array:
    random, pages = np.random.default_rng(0), []
    words = [
        "the",
        "patient",
        "was",
        "seen",
        "with",
        "no",
        "evidence",
        "of",
        "disease",
        "in",
        "chest",
        "and",
        "abdomen",
    ]
    for number in range(60):
        side = int(random.integers(400, 900))
        page = Image.new("L", (side, side), 255 if number % 3 else 0)
        for top in range(10, side - 20, int(random.integers(14, 40))):
            ImageDraw.Draw(page).text((15, top), " ".join(random.choice(words, 16)), fill=0 if number % 3 else 255)
        pages.append(_unit(page))
    return np.stack(pages)


def _noise() -> Array:
    return np.random.default_rng(0).random((60, 128, 128, 1)).astype(np.float32)


def _photographs() -> Array:
    """The two photographs of scikit-learn, whole and in 30 crops each, in grey."""
    from sklearn.datasets import load_sample_images

    random, crops = np.random.default_rng(0), []
    for photograph in load_sample_images().images:
        grey = Image.fromarray(photograph).convert("L")
        crops.append(_unit(grey))
        for _ in range(30):
            side = int(random.integers(150, 400))
            left, top = (int(random.integers(0, length - side + 1)) for length in grey.size)
            crops.append(_unit(grey.crop((left, top, left + side, top + side))))
    return np.stack(crops)


def _pictures(folder: Path) -> Array:
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    pictures = np.stack([_unit(Image.open(path).convert("L")) for path in files])
    return np.asarray(pictures[pictures.std(axis=(1, 2, 3)) >= BLANK_CONTRAST])


def _unit(picture: Image.Image) -> Array:
    return unit_pixels(np.asarray(picture, np.float32), ValueUnit.DISPLAY, MR_PIXELS)


if __name__ == "__main__":
    main()
