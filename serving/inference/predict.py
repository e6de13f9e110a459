"""Uploaded bytes to a Prediction, for the endpoint, the command line, replay and tests. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.core_types import Scan
from data.scan import hounsfield, preprocess, slice_features, slice_rules
from lineage import keys
from lineage.errors import Fault
from lineage.record.prediction import (
    Answer,
    JournalRow,
    LeftOutFile,
    Prediction,
    SentVerdict,
    fields_of,
    response_fields,
)
from lineage.record.verdict import Outcome, Verdict
from serving.inference import accepted_sites, gate, heatmap, outlier, upload_checks, uploaded_scans
from serving.inference.pooling import deciding_slices, independent_slice_count, pool
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


def probabilities(logits: Array, temperature: float) -> Array:
    """Softmax of logits (n, classes) divided by the calibration's temperature."""
    scaled = np.asarray(logits, np.float64) / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True), np.float32)


def decide(case: Array, positive: Sequence[int], threshold: float) -> int:
    """The class of a case: the most probable positive class at or over the operating point, else the best other one."""
    is_positive = float(case[list(positive)].sum()) >= threshold
    candidates = [index for index in range(len(case)) if (index in positive) == is_positive]
    return max(candidates, key=lambda index: float(case[index]))


def predict(
    release: Release, uploads: Sequence[Upload], task: str | None = None, *, id: str = "", at: str = "", site: str = ""
) -> Prediction:
    """Answer one case: one file, one DICOM series, or several files of one patient and one kind of scan.

    Without `task`, the header's modality and body part choose the task. `id` and `at` are set by the caller. `site` is
    the hash of the sender's site, for files that name no institution. Raises Fault for a file that cannot be read,
    files of several patients, or a task that is unknown or ambiguous.
    """
    pending_hashes = _background_threads().submit(_hashes, uploads)
    scans = uploaded_scans.read_scans(uploads)
    model = choose_model(release, scans[0], task)
    source = accepted_sites.read_source(scans, site, release.own_site)
    accepted_site, site_findings = accepted_sites.find_site(model.sites, source, model.task, release.unknown_sites)
    model = model.at_site(accepted_site)
    scans = [hounsfield.convert_to_task_units(scan, model.modality) for scan in scans]
    prepared = np.concatenate([preprocess.scan_pixels(scan, model.pixels) for scan in scans])
    judged = _slices_with_contrast(prepared)
    pending_descriptions = _background_threads().submit(uploaded_scans.describe_slices, scans, uploads, judged.tolist())
    logits, features = model.graph.run(prepared[judged])
    slices = probabilities(logits, model.temperature)
    scores, distances = slices[:, list(model.positive)].sum(axis=1), outlier.distance(model.reference, features)
    likeness = _likeness(release, model, prepared[judged])
    is_inlier = (distances <= model.outlier_distance) & (likeness >= _smallest_likeness(model))
    pooled = _slices_to_pool(is_inlier)
    slice_distance = scans[0].spacing[0] if len(scans) == 1 and scans[0].spacing else 0.0
    independent_slices = independent_slice_count(len(pooled), slice_distance)
    case = pool(slices[pooled], model.positive, model.pooling, model.prevalence, independent_slices)
    top = int(pooled[np.argmax(scores[pooled])])
    (top_scan, _), descriptions = uploaded_scans.locate_slice(scans, int(judged[top])), pending_descriptions.result()
    rules = slice_rules.scan_rules(model.modality, model.body_parts, model.pixels.window, model.field_of_view)
    deciding = set(pooled[deciding_slices(scores[pooled], model.pooling)].tolist())
    left_out, blank_count = [reason for _, reason in scans[0].left_out], len(prepared) - len(judged)
    findings = upload_checks.check(descriptions, rules, deciding, left_out, blank_count)
    findings = replace(findings, warnings=(*findings.warnings, *site_findings.warnings))
    top_pixels = prepared[judged[top]]
    inliers = (int(is_inlier.sum()), len(judged))
    closeness = float(distances[top]), float(likeness[top])
    verdict = _gate(release, model, top_scan, findings, site_findings.faults, top_pixels, closeness, inliers, case)
    map_class = max(model.positive, key=lambda index: float(slices[top, index]))
    return Prediction(
        id=id,
        at=at,
        release=release.name,
        task=model.task,
        title=model.title,
        version=model.version,
        cluster=_cluster(scans, uploads),
        inputs=pending_hashes.result(),
        description=descriptions[top] | source.facts(accepted_site),
        embedding=tuple(float(value) for value in slice_features.embed(top_pixels[:, :, 0])),
        classes=model.classes,
        probabilities=tuple(float(value) for value in case),
        answer=model.classes[decide(case, model.positive, model.threshold)]
        if verdict.outcome is Outcome.PASS
        else None,
        score=float(case[list(model.positive)].sum()),
        threshold=model.threshold,
        verdict=verdict,
        slices=tuple(
            {
                "index": uploaded_scans.slice_number(scans, int(index)),
                "score": float(score),
                "counted": bool(position in pooled),
            }
            for position, (index, score) in enumerate(zip(judged, scores, strict=True))
        ),
        shown_slice=uploaded_scans.slice_number(scans, int(judged[top])),
        shape=(int(descriptions[top]["rows"]), int(descriptions[top]["columns"])),
        map=heatmap.base64_png(heatmap.class_activation_map(features[top], model.kernel, map_class)),
        map_class=model.classes[map_class],
        engine=model.graph.facts(),
        note=" ".join(filter(None, (NOTE, model.note))),
        left_out=tuple(LeftOutFile(*entry) for entry in scans[0].left_out),
        duration_ms=0.0,
    )


@lru_cache(maxsize=1)
def _background_threads() -> ThreadPoolExecutor:
    """Threads that hash and describe files while the main thread decodes and infers."""
    return ThreadPoolExecutor(2, "hashes")


def _hashes(uploads: Sequence[Upload]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(upload.content).hexdigest() for upload in uploads)


def choose_model(release: Release, scan: Scan, task: str | None) -> Model:
    """The model of the named task, else of the only task for the header's modality and body part.

    A task with ordered classes grades a finding that is known already. If another task fits too, an ordered task must
    be named. Raises Fault if no task or several tasks fit.
    """
    advice = f"name one of: {', '.join(sorted(release.models))}"
    if task:
        if task not in release.models:
            raise Fault(f"there is no task {task!r} in release {release.name}; {advice}")
        return release.models[task]
    modality, body_part = _modality(scan), scan.header.get("body_part", "")
    if not modality:
        raise Fault(f"{scan.name}: the file names no modality, so no task can be chosen; {advice}")
    candidates = [
        model
        for model in release.models.values()
        if model.modality == modality and (not body_part or gate.matches_body_part(body_part, model.body_parts))
    ]
    candidates = [model for model in candidates if not model.ordered] or candidates
    if len(candidates) == 1:
        return candidates[0]
    kind = f"{modality} of {body_part or 'an unnamed body part'}"
    raise Fault(f"{scan.name}: {'several tasks fit' if candidates else 'no task fits'} {kind}; {advice}")


def to_json(prediction: Prediction) -> dict[str, Any]:
    """The response as plain JSON: the fields of `RESPONSE_FIELDS`."""
    verdict = prediction.verdict
    special = {
        "probabilities": dict(zip(prediction.classes, prediction.probabilities, strict=True)),
        "verdict": SentVerdict(
            outcome=verdict.outcome.value,  # type: ignore[typeddict-item]
            reasons=list(verdict.reasons),
            figures=dict(verdict.figures),
        ),
        "left_out": [file._asdict() for file in prediction.left_out],
    }
    return {
        key: special[field.name] if field.name in special else _plain(getattr(prediction, field.name))
        for key, field in response_fields().items()
    }


def journal_row(prediction: Prediction, actor: str) -> JournalRow:
    """The journal's row for an answer. `actor` is the account that sent the request."""
    common = {field.name: _plain(getattr(prediction, field.name)) for field in fields_of(Answer)}
    verdict = prediction.verdict
    return JournalRow(**common, actor=actor, outcome=verdict.outcome.value, reasons=list(verdict.reasons))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _slices_with_contrast(prepared: Array) -> NDArray[np.intp]:
    """Positions of the slices that are not blank. If all are blank, all positions, and the gate abstains."""
    positions = np.flatnonzero(prepared.std(axis=(1, 2, 3)) >= gate.BLANK_CONTRAST)
    return positions if len(positions) else np.arange(len(prepared))


def _slices_to_pool(is_inlier: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Positions of the slices within the limits of outlier distance and likeness, or of all slices if none is."""
    return np.flatnonzero(is_inlier) if is_inlier.any() else np.arange(len(is_inlier))


def _gate(
    release: Release,
    model: Model,
    scan: Scan,
    findings: upload_checks.Findings,
    site_faults: Sequence[str],
    prepared: Array,
    closeness: tuple[float, float],
    inliers: tuple[int, int],
    case: Array,
) -> Verdict:
    return gate.judge_scan(
        model.task,
        modality=(_modality(scan), model.modality),
        body_part=(scan.header.get("body_part", ""), model.body_parts),
        confidence=(float(case.max()), release.abstain_below),
        distance=(closeness[0], model.outlier_distance),
        likeness=None if model.kind is None else (closeness[1], model.kind.limit),
        contrast=float(prepared.std()),
        inliers=(inliers[0], min(inliers[1], model.pooling.k if model.pooling.rule == "topk" else 1)),
        slices=inliers[1],
        conformal_set=_conformal_set(model, case),
        site_faults=site_faults,
        pixel_faults=findings.pixel_faults,
        header_faults=findings.header_faults,
        warnings=findings.warnings,
    )


def _likeness(release: Release, model: Model, prepared: Array) -> NDArray[np.float32]:
    """The likeness of each slice to the kind of picture of the task; infinite if the release does not check it."""
    if model.kind is None or release.descriptor is None:
        return np.full(len(prepared), np.inf, np.float32)
    return model.kind.likeness(release.descriptor.vectors(prepared))


def _smallest_likeness(model: Model) -> float:
    return -np.inf if model.kind is None else model.kind.limit


def _conformal_set(model: Model, case: Array) -> tuple[tuple[str, ...], float] | None:
    """The conformal set of a case and its level: the classes whose 1 - p is at most their quantile."""
    if model.conformal is None:
        return None
    level, quantiles = model.conformal
    classes = zip(model.classes, case, quantiles, strict=True)
    return tuple(name for name, p, quantile in classes if 1 - float(p) <= quantile), level


def _modality(scan: Scan) -> str:
    """The modality in the file, also one without a task (US, DX); empty if the file names none."""
    return scan.modality.value if scan.modality else scan.header.get("modality", "")


def _cluster(scans: list[Scan], uploads: Sequence[Upload]) -> str:
    """The case's cluster for resampling: a keyed pseudonym of the patient, or a hash of the file without a patient."""
    patient = scans[0].patient_id
    return keys.pseudonym(patient) if patient else "unknown-" + hashlib.sha256(uploads[0].content).hexdigest()[:12]
