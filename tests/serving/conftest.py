"""Tiny networks with answers that can be computed by hand, and a release, a Bento and a server of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from lineage.record.verdict import Verdict
from serving.bundle.bento_server import Server

SIZE = 32
KERNEL = np.array([[0.0, 240.0], [4.0, 0.0]], np.float32)  # channel "bright" is evidence for tumour, "dark" for normal
BIAS = np.array([1.0, 0.0], np.float32)


def write_graph(folder: Path, kernel: np.ndarray = KERNEL, size: int = SIZE, bias: np.ndarray = BIAS) -> Path:
    """Conv, ReLU, pooling, linear: 4x4 blocks over 0.7 activate the first channel, blocks under 0.3 the second."""
    folder.mkdir(parents=True, exist_ok=True)
    conv = np.stack([np.full((1, 4, 4), 1 / 16), np.full((1, 4, 4), -1 / 16)]).astype(np.float32)
    weights = {"conv": conv, "shift": np.array([-0.7, 0.3], np.float32), "kernel": kernel, "bias": bias}
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "conv", "shift"], ["raw"], strides=[4, 4], kernel_shape=[4, 4]),
        helper.make_node("Relu", ["raw"], ["maps"]),
        helper.make_node("Transpose", ["maps"], ["features"], perm=[0, 2, 3, 1]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "kernel", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", size, size, 1])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", kernel.shape[1]]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", size // 4, size // 4, 2]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "graph.onnx")
    np.savez(folder / "head.npz", kernel=kernel, bias=bias)
    return folder / "graph.onnx"


def picture(bright: bool, seed: int = 0) -> np.ndarray:
    """A grey plane in [0, 1] with noise, and a bright lesion at the upper left if `bright`."""
    plane = np.random.default_rng(seed).normal(0.5, 0.03, (SIZE, SIZE)).astype(np.float32)
    if bright:
        plane[4:12, 4:12] = 0.98
    return np.clip(plane, 0, 1)


def batch(*brights: bool) -> np.ndarray:
    """Planes as the input of the graph."""
    return np.stack([picture(bright, seed) for seed, bright in enumerate(brights)])[..., np.newaxis]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the graph, the linear layer and the reference of a tiny network."""
    from serving.inference import outlier
    from serving.inference.graph import Graph

    folder = tmp_path_factory.mktemp("tiny")
    write_graph(folder)
    _, features = Graph.load(folder / "graph.onnx").run(batch(*[True, False] * 10))
    outlier.save(folder / "reference.npz", features)
    return folder


def facts(**changes: Any) -> dict[str, Any]:
    """The manifest's entry of one task, which is accepted for scans that name no site and no scanner."""
    task_facts: dict[str, Any] = {
        "title": "Tumour on a tiny MR slice",
        "modality": "MR",
        "organ": "brain",
        "body_parts": ["BRAIN", "HEAD"],
        "classes": ["normal", "tumour"],
        "positive": ["tumour"],
        "unit": "slice",
        "pixels": {"size": SIZE, "window": None},
        "pooling": {"rule": "topk", "k": 2},
        "temperature": 1.0,
        "threshold": 0.5,
        "precision": "float32",
        "outlier_distance": 1e6,
        "version": "1",
        "note": "phantoms only",
        "prevalence": 0.5,
        "conformal": None,
    } | changes
    return {"sites": [accepted_site(task_facts)]} | task_facts


def accepted_site(task_facts: dict[str, Any], site: str = "", scanners: tuple[str, ...] = (), **changes: Any) -> Any:
    """The manifest's entry of an accepted site; it has the calibration of the model, except for `changes`."""
    calibration = {name: task_facts[name] for name in ("temperature", "threshold", "conformal")}
    facts = {"site": site, "institutions": [], "scanners": list(scanners), "basis": "promotion", "verdict": 1}
    return facts | {"clusters": 20} | calibration | changes


def png(bright: bool, seed: int = 0) -> bytes:
    """A picture as PNG: display grey values, no header facts."""
    stream = io.BytesIO()
    Image.fromarray((picture(bright, seed) * 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def dicom(bright: bool, seed: int = 0, position: float = 0.0, **attributes: str) -> bytes:
    """One MR slice as DICOM with a usual header; `attributes` sets further attributes."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = MRImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = generate_uid(entropy_srcs=[str(seed)])
    header.SeriesInstanceUID = generate_uid(entropy_srcs=["series"])
    header.Modality, header.BodyPartExamined, header.PatientID = "MR", "BRAIN", "Jane^Doe"
    header.Rows = header.Columns = SIZE
    header.PixelSpacing, header.SliceThickness = [1.0, 1.0], 2.0
    header.ImagePositionPatient, header.ImageOrientationPatient = [0.0, 0.0, position], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelData = (picture(bright, seed) * 4000).astype("<u2").tobytes()
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def manifest(name: str = "r1", **tasks: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a release, without warm-up scans."""
    serving = {"engine": "openvino", "abstain_below": 0.5, "max_upload_mb": 1}
    return {
        "release": name,
        "created": "2026-01-31T12:00:00Z",
        "tasks": tasks or {"tiny-mr": facts()},
        "serving": serving,
    }


@pytest.fixture(scope="session")
def served_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder for all tests with a served Bento."""
    from lineage import keys, paths
    from lineage.record import database

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCOLOOP_HOME", str(tmp_path_factory.mktemp("served") / "var"))
        patch.delenv("ONCOLOOP_DATABASE_URL", raising=False)
        for name, value in paths.environment().items():
            patch.setenv(name, value)
        keys.create()
        database.migrate()
        yield paths.home()


@dataclass(frozen=True)
class Endpoint:
    """A served release: its Bento, its folder, the server that passed its check, and a token for it."""

    tag: str
    folder: Path
    server: Server
    verdict: Verdict
    token: str


@pytest.fixture(scope="session")
def bento(served_home: Path, tiny: Path) -> tuple[str, Path]:
    """A real Bento, built once, and its release folder."""
    from serving.bundle import bento_build

    warmups = [("a.dcm", dicom(True), "tiny-mr"), ("b.dcm", dicom(False, 1), "tiny-mr")]
    folder = bento_build.assemble(served_home / "releases" / "r1", manifest(), {"tiny-mr": tiny}, warmups)
    return bento_build.build(folder), folder


@pytest.fixture(scope="session")
def endpoint(bento: tuple[str, Path]) -> Iterator[Endpoint]:
    """The Bento, served by two workers after it passed its check; one word of its packaged code is changed."""
    from lineage import accounts
    from serving.bundle import bento_build
    from serving.inference import release_integrity

    tag, folder = bento
    code = release_integrity.bento_folder(tag) / "src" / "serving" / "inference" / "predict.py"
    code.write_text(code.read_text().replace('"Research use only.', '"Packaged. Research use only.'))
    verdict, server = bento_build.start_checked(tag, folder)
    assert server, verdict.reasons
    accounts.add("eve", "clinician")
    yield Endpoint(tag, folder, server, verdict, accounts.issue("eve", "predict", 1))
    server.stop()
