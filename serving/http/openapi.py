"""The OpenAPI page: what the endpoint takes and says, for programs. A test compares it with what really happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.http.problem_details import MEDIA
from serving.http.upload_form import BODIES, FORM, LONGEST_TASK

Json = dict[str, Any]
TEXT, NUMBER, WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "array", "items": TEXT}
FILE = {"type": "string", "format": "binary"}
PLAIN = {"text/plain": {"schema": TEXT}}
SECURED: Json = {"security": [{"token": []}]}
AGAIN = "Of your choice; who asks again with the same key and files gets the first answer, and no second row."
UNKNOWN = "No bearer token, or one that is unknown, expired, of another scope, or of a closed account."
REFUSALS = {
    400: "The upload cannot be read: broken, incomplete or without files.",
    401: UNKNOWN,
    403: "A release answers the desk alone, which shows itself by a header; ask at the desk, `POST /api/predict`.",
    408: "The upload did not come in time.",
    413: "The upload is larger than this release takes.",
    415: "The body is of another content type.",
    422: "A file, or the task, cannot be answered; `detail` names the file and the reason.",
    500: "Something failed here.",
    503: "Too many at once, or the answer could not be journalled; come back after `Retry-After` seconds.",
}
# What each field of an answer is; `serving/inference/predict.py` gives them.
ANSWER = {
    "id": TEXT | {"description": "Of the row in the journal; `oncoloop trace` takes it."},
    "at": TEXT | {"format": "date-time"},
    "task": TEXT,
    "title": TEXT,
    "release": TEXT,
    "version": TEXT | {"description": "Of the model."},
    "answer": {"type": ["string", "null"], "description": "A class; null where the release abstains."},
    "score": NUMBER | {"description": "The case's probability of the positive classes."},
    "threshold": NUMBER | {"description": "The operating point: at or over it a case is positive."},
    "probabilities": {"type": "object", "additionalProperties": NUMBER},
    "verdict": {
        "type": "object",
        "required": ["outcome", "reasons", "figures"],
        "properties": {
            "outcome": TEXT | {"enum": ["pass", "inconclusive"]},
            "reasons": TEXTS | {"description": "What withholds the answer; then warnings, which do not."},
            "figures": {"type": "object"},
        },
    },
    "map": TEXT | {"description": "PNG in base64: where the evidence lies in the shown slice."},
    "map_class": TEXT,
    "slices": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["index", "score", "counted"],
            "properties": {"index": WHOLE, "score": NUMBER, "counted": {"type": "boolean"}},
        },
    },
    "shown": WHOLE | {"description": "The slice that the map belongs to."},
    "shape": {"type": "array", "items": WHOLE, "minItems": 2, "maxItems": 2, "description": "Its rows and columns."},
    "inputs": TEXTS | {"description": "SHA-256 of each file, in the order sent."},
    "left_out": {
        "type": "array",
        "description": "Files that are no slices of the scan, and what they are.",
        "items": {"type": "object", "required": ["file", "reason"], "properties": {"file": TEXT, "reason": TEXT}},
    },
    "engine": {"type": "object"},
    "note": TEXT,
    "duration_ms": NUMBER,
}


def page(release: str, tasks: Sequence[str]) -> Json:
    """The description of a release and its tasks, as OpenAPI 3.1."""
    token = {"type": "http", "scheme": "bearer", "description": "`oncoloop login NAME --token`; its scope: `predict`."}
    schemas = {
        "Answer": {"type": "object", "required": list(ANSWER), "properties": ANSWER},
        "Problem": _problem(),
        "Manifest": {"type": "object", "required": ["release", "tasks", "serving", "warmup"]},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Oncoloop",
            "version": release,
            "description": "Answers for the tasks of one release. Research use only.",
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/predict": {"post": _predict(tasks)},
            "/manifest": {
                "get": _operation("manifest", "What this release is made of", _json("Manifest"), (401, 403, 503))
                | SECURED
            },
            "/readyz": {"get": _operation("readyz", "Ready to answer", {"text/plain": {"schema": TEXT}})},
            "/livez": {"get": _operation("livez", "Alive", {"text/plain": {"schema": TEXT}})},
            "/healthz": {"get": _operation("healthz", "Alive", {"text/plain": {"schema": TEXT}})},
            "/metrics": {"get": _operation("metrics", "Prometheus metrics", {"text/plain": {"schema": TEXT}})},
        },
        "components": {"securitySchemes": {"token": token}, "schemas": schemas},
    }


def _predict(tasks: Sequence[str]) -> Json:
    """Three bodies that ask the same."""
    offer = f"One of {', '.join(tasks)}; needed where no file says what it shows (PNG, JPEG, NIfTI)."
    task = TEXT | {"maxLength": LONGEST_TASK, "description": offer}
    files = {"type": "array", "items": FILE, "minItems": 1, "description": "DICOM, NIfTI, PNG, JPEG, or a zip of one."}
    fields = {"files": files, "task": task}
    form = {"type": "object", "required": ["files"], "properties": fields, "additionalProperties": False}
    content = {FORM: {"schema": form}} | {media: {"schema": FILE | {"minLength": 1}} for media in BODIES}
    summary = "Answer one case: a file, several files of one patient, a DICOM series, or a zip of one"
    return (
        _operation("predict", summary, _json("Answer"), tuple(REFUSALS))
        | SECURED
        | {
            "parameters": [
                {"name": "task", "in": "query", "required": False, "schema": task},
                {"name": "Idempotency-Key", "in": "header", "required": False, "schema": TEXT | {"description": AGAIN}},
            ],
            "requestBody": {"required": True, "content": content},
        }
    )


def _operation(name: str, summary: str, content: Json, refusals: Sequence[int] = ()) -> Json:
    problem = {MEDIA: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    answers: Json = {"200": {"description": summary, "content": content}}
    for status in refusals:
        answers[str(status)] = {"description": REFUSALS[status], "content": problem}
        if status == 503:
            answers[str(status)]["headers"] = {"Retry-After": {"schema": WHOLE}}
    return {"operationId": name, "summary": summary, "responses": answers}


def _json(schema: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _problem() -> Json:
    """RFC 9457, section 3.1."""
    properties = {"type": TEXT, "title": TEXT, "status": WHOLE, "detail": TEXT}
    return {"type": "object", "required": list(properties), "properties": properties}
