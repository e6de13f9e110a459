"""The OpenAPI document of the endpoint. A contract test compares it with the real behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.http.answer_schema import answer_schema
from serving.http.problem_details import MEDIA
from serving.http.upload_form import FILE_MEDIA, FORM_MEDIA, MAX_TASK_LENGTH

Json = dict[str, Any]
TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
FILE = {"type": "string", "format": "binary"}
SECURED: Json = {"security": [{"token": []}]}
IDEMPOTENCY = "Any text. A second request with the same key and files gets the first answer, and adds no second row."
UNAUTHORIZED = "No bearer token, or one that is unknown, expired, of another scope, or of a closed account."
REFUSALS = {
    400: "The upload cannot be read: broken, incomplete or without files.",
    401: UNAUTHORIZED,
    403: "A release answers only the desk, which sends its own header; send the request to `POST /api/predict`.",
    408: "The upload was not complete in time.",
    413: "The upload is larger than this release accepts.",
    415: "The body has an unsupported content type.",
    422: "There is no answer for this file or task; `detail` names the file and the reason.",
    500: "An internal error.",
    503: "Too many requests, or the answer could not be journalled; try again after `Retry-After` seconds.",
}


def page(release: str, tasks: Sequence[str]) -> Json:
    """The OpenAPI 3.1 document of a release and its tasks."""
    token = {"type": "http", "scheme": "bearer", "description": "`oncoloop login NAME --token`; its scope: `predict`."}
    schemas = {
        "Answer": answer_schema(),
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
                "get": _operation("manifest", "The contents of this release", _json("Manifest"), (401, 403, 503))
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
    """The operation `predict`: three kinds of body for the same request."""
    task_help = f"One of {', '.join(tasks)}; required for files without a modality (PNG, JPEG, NIfTI)."
    task = TEXT | {"maxLength": MAX_TASK_LENGTH, "description": task_help}
    files = {"type": "array", "items": FILE, "minItems": 1, "description": "DICOM, NIfTI, PNG, JPEG, or a zip of one."}
    fields = {"files": files, "task": task}
    form = {"type": "object", "required": ["files"], "properties": fields, "additionalProperties": False}
    content = {FORM_MEDIA: {"schema": form}} | {media: {"schema": FILE | {"minLength": 1}} for media in FILE_MEDIA}
    summary = "Answer one case: a file, several files of one patient, a DICOM series, or a zip of one"
    return (
        _operation("predict", summary, _json("Answer"), tuple(REFUSALS))
        | SECURED
        | {
            "parameters": [
                {"name": "task", "in": "query", "required": False, "schema": task},
                {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "required": False,
                    "schema": TEXT | {"description": IDEMPOTENCY},
                },
            ],
            "requestBody": {"required": True, "content": content},
        }
    )


def _operation(name: str, summary: str, content: Json, refusals: Sequence[int] = ()) -> Json:
    problem = {MEDIA: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    responses: Json = {"200": {"description": summary, "content": content}}
    for status in refusals:
        responses[str(status)] = {"description": REFUSALS[status], "content": problem}
        if status == 503:
            responses[str(status)]["headers"] = {"Retry-After": {"schema": COUNT}}
    return {"operationId": name, "summary": summary, "responses": responses}


def _json(schema: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _problem() -> Json:
    """The schema of a problem detail (RFC 9457, section 3.1)."""
    properties = {"type": TEXT, "title": TEXT, "status": COUNT, "detail": TEXT}
    return {"type": "object", "required": list(properties), "properties": properties}
