"""Bytes to a Prediction: the one path that answers, for the endpoint, the command line, replay and tests. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.record import Scan
from data.scan import hounsfield, preprocess, slice_features, slice_rules
from lineage import keys
from lineage.errors import Fault
from lineage.record.journal import JournalRow
from lineage.record.verdict import Outcome, Verdict
from serving.inference import gate, heatmap, outlier, upload_checks, uploaded_scans
from serving.inference.pooling import deciding, independent_slice_count, pool
from serving.inference.release import Model, Release, load_release
from serving.inference.request import Upload

__all__ = [
    "Prediction",
    "Release",
    "Upload",
    "journal_row",
    "load_release",
    "predict",
    "probabilities",
    "to_json",
]

NOTE = "Research use only. Not a medical device, not for clinical decisions."
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """One answer and all that the journal keeps of it: hashes, numbers and the small map; no pixels, no identity.

    `score` is the pooled probability of the positive classes, `slices` holds each slice's own and whether it counted
    for the pooling (it looks like what the model was judged on), `shown` is the index of the slice of the map, and
    `left_out` names files that are no slices, and what they are; the journal keeps no names, so it has none of it.
    """

    id: str
    at: str
    release: str
    task: str
    title: str
    version: str
    cluster: str
    inputs: tuple[str, ...]
    description: dict[str, float | str]
    embedding: tuple[float, ...]
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    answer: str | None
    score: float
    threshold: float
    verdict: Verdict
    slices: tuple[dict[str, Any], ...]
    shown: int
    map: str
    map_class: str
    engine: dict[str, Any]
    note: str
    left_out: tuple[tuple[str, str], ...] = ()
    duration_ms: float = 0.0


def probabilities(logits: Array, temperature: float) -> Array:
    """Softmax of logits (n, classes) divided by the calibration's temperature."""
    scaled = np.asarray(logits, np.float64) / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True), np.float32)


def decide(case: Array, positive: Sequence[int], threshold: float) -> int:
    """The class of a case: the most probable positive one at or over the operating point, else the best other one."""
    inside = float(case[list(positive)].sum()) >= threshold
    candidates = [index for index in range(len(case)) if (index in positive) == inside]
    return max(candidates, key=lambda index: float(case[index]))


def predict(
    release: Release, uploads: Sequence[Upload], task: str | None = None, *, id: str = "", at: str = ""
) -> Prediction:
    """Answer one case: one file, one DICOM series, or several files of one patient and one kind of scan.

    `task` names the question; without it, modality and body part of the header choose. `id` and `at` are the
    caller's. Raises Fault for a file that cannot be read, files of several patients, or a task that is not clear.
    """
    inputs = _aside().submit(_hashes, uploads)
    scans = uploaded_scans.scans(uploads)
    model = choose(release, scans[0], task)
    scans = [hounsfield.convert_to_task_units(scan, model.modality) for scan in scans]
    prepared = np.concatenate([preprocess.scan_pixels(scan, model.pixels) for scan in scans])
    judged = _judged(prepared)
    described = _aside().submit(uploaded_scans.descriptions, scans, uploads, judged.tolist())
    logits, features = model.graph.run(prepared[judged])
    slices = probabilities(logits, model.temperature)
    scores, distances = slices[:, list(model.positive)].sum(axis=1), outlier.distance(model.reference, features)
    counted = _counted(distances <= model.outlier_distance)
    distance = scans[0].spacing[0] if len(scans) == 1 and scans[0].spacing else 0.0
    seen = independent_slice_count(len(counted), distance)
    case = pool(slices[counted], model.positive, model.pooling, model.prevalence, seen)
    top = int(counted[np.argmax(scores[counted])])
    (scan, _), descriptions = uploaded_scans.slice_of(scans, int(judged[top])), described.result()
    asked = slice_rules.scan_rules(model.modality, model.body_parts, model.pixels.window, model.field_of_view)
    answering = set(counted[deciding(scores[counted], model.pooling)].tolist())
    others, blank = [reason for _, reason in scans[0].left_out], len(prepared) - len(judged)
    found = upload_checks.check(descriptions, asked, answering, others, blank)
    shown = prepared[judged[top]]
    alike = (int((distances <= model.outlier_distance).sum()), len(judged))
    verdict = _gate(release, model, scan, found, shown, float(distances[top]), alike, case)
    mapped = max(model.positive, key=lambda index: float(slices[top, index]))
    return Prediction(
        id=id,
        at=at,
        release=release.name,
        task=model.task,
        title=model.title,
        version=model.version,
        cluster=_cluster(scans, uploads),
        inputs=inputs.result(),
        description=descriptions[top],
        embedding=tuple(float(value) for value in slice_features.embed(shown[:, :, 0])),
        classes=model.classes,
        probabilities=tuple(float(value) for value in case),
        answer=model.classes[decide(case, model.positive, model.threshold)]
        if verdict.outcome is Outcome.PASS
        else None,
        score=float(case[list(model.positive)].sum()),
        threshold=model.threshold,
        verdict=verdict,
        slices=tuple(
            {"index": uploaded_scans.number(scans, int(at)), "score": float(score), "counted": bool(number in counted)}
            for number, (at, score) in enumerate(zip(judged, scores, strict=True))
        ),
        shown=uploaded_scans.number(scans, int(judged[top])),
        map=heatmap.base64_png(heatmap.class_activation_map(features[top], model.kernel, mapped)),
        map_class=model.classes[mapped],
        engine=model.graph.facts(),
        note=" ".join(filter(None, (NOTE, model.note))),
        left_out=scans[0].left_out,
    )


@lru_cache(maxsize=1)
def _aside() -> ThreadPoolExecutor:
    """Where files are hashed while they are decoded."""
    return ThreadPoolExecutor(2, "hashes")


def _hashes(uploads: Sequence[Upload]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(one.content).hexdigest() for one in uploads)


def choose(release: Release, scan: Scan, task: str | None) -> Model:
    """The model that answers: by name, else by the header's modality and body part. Raises Fault if not exactly one.

    A task of ordered classes asks how far something is that was found before: where another task fits, it is asked for
    by name alone.
    """
    offer = f"name one of: {', '.join(sorted(release.models))}"
    if task:
        if task not in release.models:
            raise Fault(f"there is no task {task!r} in release {release.name}; {offer}")
        return release.models[task]
    modality, body_part = _modality(scan), scan.header.get("body_part", "")
    if not modality:
        raise Fault(f"{scan.name}: the file does not say what kind of scan it is, so no task can be chosen; {offer}")
    found = [
        model
        for model in release.models.values()
        if model.modality == modality and (not body_part or gate.matches_body_part(body_part, model.body_parts))
    ]
    found = [model for model in found if not model.ordered] or found
    if len(found) == 1:
        return found[0]
    kind = f"{modality} of {body_part or 'an unnamed body part'}"
    raise Fault(f"{scan.name}: {'several tasks answer' if found else 'no task answers'} for {kind}; {offer}")


def to_json(prediction: Prediction) -> dict[str, Any]:
    """The answer as the endpoint gives it. `map` covers the shown slice, of `shape`, centred in a square."""
    verdict = prediction.verdict
    return {
        "id": prediction.id,
        "at": prediction.at,
        "task": prediction.task,
        "title": prediction.title,
        "release": prediction.release,
        "version": prediction.version,
        "answer": prediction.answer,
        "score": prediction.score,
        "threshold": prediction.threshold,
        "probabilities": dict(zip(prediction.classes, prediction.probabilities, strict=True)),
        "verdict": {
            "outcome": verdict.outcome.value,
            "reasons": list(verdict.reasons),
            "figures": dict(verdict.figures),
        },
        "map": prediction.map,
        "map_class": prediction.map_class,
        "slices": list(prediction.slices),
        "shown": prediction.shown,
        "shape": [int(prediction.description[side]) for side in ("rows", "columns")],
        "inputs": list(prediction.inputs),
        "left_out": [{"file": name, "reason": reason} for name, reason in prediction.left_out],
        "engine": prediction.engine,
        "note": prediction.note,
        "duration_ms": prediction.duration_ms,
    }


def journal_row(prediction: Prediction, actor: str) -> JournalRow:
    """What the journal keeps of an answer. `actor` is the name of who asked."""
    return JournalRow(
        id=prediction.id,
        at=prediction.at,
        actor=actor,
        release=prediction.release,
        task=prediction.task,
        version=prediction.version,
        cluster=prediction.cluster,
        inputs=list(prediction.inputs),
        description=dict(prediction.description),
        embedding=list(prediction.embedding),
        probabilities=list(prediction.probabilities),
        answer=prediction.answer,
        score=prediction.score,
        outcome=prediction.verdict.outcome.value,
        reasons=list(prediction.verdict.reasons),
        slices=list(prediction.slices),
        map=prediction.map,
        engine=prediction.engine,
        duration_ms=prediction.duration_ms,
    )


def _judged(prepared: Array) -> NDArray[np.intp]:
    """Positions of the slices that show something; all of them where none does, for the gate to say so."""
    shown = np.flatnonzero(prepared.std(axis=(1, 2, 3)) >= gate.BLANK)
    return shown if len(shown) else np.arange(len(prepared))


def _counted(alike: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Positions of the slices that look like what the model was judged on; all of them where none does."""
    return np.flatnonzero(alike) if alike.any() else np.arange(len(alike))


def _gate(
    release: Release,
    model: Model,
    scan: Scan,
    found: upload_checks.Findings,
    prepared: Array,
    distance: float,
    alike: tuple[int, int],
    case: Array,
) -> Verdict:
    return gate.answer(
        model.task,
        modality=(_modality(scan), model.modality),
        body_part=(scan.header.get("body_part", ""), model.body_parts),
        confidence=(float(case.max()), release.abstain_below),
        distance=(distance, model.outlier_distance),
        contrast=float(prepared.std()),
        alike=(alike[0], min(alike[1], model.pooling.k if model.pooling.rule == "topk" else 1)),
        slices=alike[1],
        possible=_possible(model, case),
        unfit=found.unfit,
        refused=found.refused,
        warnings=found.warnings,
    )


def _possible(model: Model, case: Array) -> tuple[tuple[str, ...], float] | None:
    """The conformal set of a case and its level: the classes whose 1 - p is at most their quantile."""
    if model.conformal is None:
        return None
    level, quantiles = model.conformal
    inside = zip(model.classes, case, quantiles, strict=True)
    return tuple(name for name, p, quantile in inside if 1 - float(p) <= quantile), level


def _modality(scan: Scan) -> str:
    """What the file says it is, also where no task asks for that (US, DX); empty where it does not say."""
    return scan.modality.value if scan.modality else scan.header.get("modality", "")


def _cluster(scans: list[Scan], uploads: Sequence[Upload]) -> str:
    """Who the case is of, for resampling: a keyed pseudonym, or the content where the file names nobody."""
    patient = scans[0].patient_id
    return keys.pseudonym(patient) if patient else "unknown-" + hashlib.sha256(uploads[0].content).hexdigest()[:12]
