"""Load a release folder: its manifest, and each task's compiled graph, linear layer and reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.core_types import FieldOfView, PixelSettings, Pooling
from lineage.errors import Fault
from serving.descriptor import picture_kind
from serving.descriptor.picture_kind import PictureKind
from serving.inference import outlier, release_integrity
from serving.inference.accepted_sites import WITHHOLD, AcceptedSite, read_accepted_site
from serving.inference.descriptor import Descriptor
from serving.inference.graph import Graph
from serving.inference.manifest import read_manifest

GRAPH, HEAD, REFERENCE = "graph.onnx", "head.npz", "reference.npz"
DESCRIPTOR, KIND = "descriptor.onnx", "kind.npz"


@dataclass(frozen=True)
class Model:
    """One task of a release: its inputs, classes, thresholds and compiled graph."""

    task: str
    title: str
    modality: str
    body_parts: tuple[str, ...]
    classes: tuple[str, ...]
    positive: tuple[int, ...]
    pixels: PixelSettings
    pooling: Pooling
    temperature: float
    threshold: float
    outlier_distance: float
    prevalence: float
    conformal: tuple[float, tuple[float, ...]] | None  # level, and per class the quantile of 1 - p
    version: str
    note: str
    graph: Graph
    kernel: NDArray[np.float32]
    reference: outlier.Reference
    ordered: bool = False  # the classes are ordered stages or sizes of a finding that is known already
    field_of_view: str = FieldOfView.BODY
    kind: PictureKind | None = None  # None in a release that was built before there was this test
    sites: tuple[AcceptedSite, ...] | None = None  # newest acceptance first; None: a release that checks no sites

    def at_site(self, site: AcceptedSite | None) -> Model:
        """The model with the calibration of an accepted site; the model itself for a site that has none."""
        if site is None or site.calibration is None:
            return self
        values = site.calibration
        return replace(self, temperature=values.temperature, threshold=values.threshold, conformal=values.conformal)


@dataclass(frozen=True)
class Release:
    """The models of all tasks and the limits of the endpoint, approved together."""

    name: str
    manifest: dict[str, Any]
    models: dict[str, Model]
    abstain_below: float
    max_upload_mb: float
    descriptor: Descriptor | None = None
    unknown_sites: str = WITHHOLD
    own_site: str = ""  # the hash of the desk's own site, for uploads that name none


def load_release(folder: Path) -> Release:
    """Check and compile a release folder. Raises Fault for a changed or missing file, or a missing manifest key."""
    release_integrity.check_release(folder)
    return compile_release(folder)


def compile_release(folder: Path) -> Release:
    """Compile a release folder that is still being written, so that its files cannot be checked yet."""
    manifest = read_manifest(folder)
    serving = manifest["serving"]
    models = {task: _model(folder / task, task, facts, serving["engine"]) for task, facts in manifest["tasks"].items()}
    has_kinds = any(model.kind is not None for model in models.values())
    return Release(
        name=manifest["release"],
        manifest=manifest,
        models=models,
        abstain_below=float(serving["abstain_below"]),
        max_upload_mb=float(serving["max_upload_mb"]),
        descriptor=Descriptor.load(folder / DESCRIPTOR, serving["engine"]) if has_kinds else None,
        unknown_sites=str(serving.get("unknown_sites", WITHHOLD)),
        own_site=str(serving.get("site", "")),
    )


def _model(folder: Path, task: str, facts: dict[str, Any], engine: str) -> Model:
    graph = Graph.load(folder / GRAPH, engine, facts["precision"])
    classes, window = tuple(facts["classes"]), facts["pixels"]["window"]
    kernel = read_head(folder / HEAD)
    if graph.classes != len(classes) or kernel.shape[1] != len(classes) or graph.size != facts["pixels"]["size"]:
        raise Fault(
            f"{folder}: the graph has {graph.classes} classes at {graph.size} pixels, its head {kernel.shape[1]} "
            f"classes, the manifest {len(classes)} at {facts['pixels']['size']}; build the release again"
        )
    return Model(
        task=task,
        title=facts["title"],
        modality=facts["modality"],
        body_parts=tuple(facts["body_parts"]),
        classes=classes,
        positive=tuple(classes.index(name) for name in facts["positive"]),
        pixels=PixelSettings(facts["pixels"]["size"], None if window is None else (window[0], window[1])),
        pooling=Pooling(facts["pooling"]["rule"], facts["pooling"]["k"]),
        temperature=float(facts["temperature"]),
        threshold=float(facts["threshold"]),
        outlier_distance=float(facts["outlier_distance"]),
        prevalence=float(facts["prevalence"]),
        conformal=_conformal(facts["conformal"]),
        version=str(facts["version"]),
        note=facts["note"],
        graph=graph,
        kernel=kernel,
        reference=outlier.load(folder / REFERENCE),
        ordered=bool(facts.get("ordered", False)),
        field_of_view=str(facts.get("field_of_view", FieldOfView.BODY.value)),
        kind=picture_kind.load(folder / KIND) if facts.get("checks_kind") else None,
        sites=tuple(map(read_accepted_site, facts["sites"])) if "sites" in facts else None,
    )


def _conformal(facts: dict[str, Any] | None) -> tuple[float, tuple[float, ...]] | None:
    return None if facts is None else (float(facts["level"]), tuple(map(float, facts["quantiles"])))


def read_head(path: Path) -> NDArray[np.float32]:
    """The kernel (channels, classes) of the linear layer, from `head.npz`. Raises Fault if the file is missing."""
    if not path.is_file():
        raise Fault(f"{path}: the linear layer's weights are missing; export the graph again")
    with np.load(path, allow_pickle=False) as arrays:
        return np.asarray(arrays["kernel"], np.float32)
