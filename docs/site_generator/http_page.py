"""Reference: the HTTP API, from the OpenAPI description that serving/http/openapi.py gives."""

from __future__ import annotations

from typing import Any

from site_generator import markdown

INTRODUCTION = """# HTTP API

Programs send scans to the desk, `POST /api/predict`. The desk forwards the request to the live release, where the path
is `/predict`. Other paths of this page are answered by the release itself. The base address is the desk's, by default
`http://127.0.0.1:7800`; a release shows its own OpenAPI page under `/` and `/docs.json`.

A bearer token is needed: `oncoloop login NAME --token`. Errors are problem details (RFC 9457).
"""


def description() -> dict[str, Any]:
    """The OpenAPI description of a release of the shipped tasks."""
    from pipelines import params
    from serving.http import openapi
    from site_generator.source import ROOT

    return openapi.page("RELEASE", sorted(params.load(ROOT).tasks))


def page() -> str:
    """The page of all paths and schemas."""
    described = description()
    parts = [INTRODUCTION]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method.upper(), operation))
    for name, schema in described["components"]["schemas"].items():
        parts.append(f"## {name}\n")
        rows = list(_fields(schema))
        parts.append(markdown.table(("field", "type", "always", "meaning"), rows) if rows else _required(schema))
    return "\n".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [f"## {method} {path}", "", markdown.text(operation["summary"]) + ".", ""]
    body = operation.get("requestBody", {}).get("content", {})
    if body:
        rows = [(markdown.code(media), _body(entry["schema"])) for media, entry in body.items()]
        parts += ["Request body, one of:", "", markdown.table(("content type", "content"), rows)]
    parameters = operation.get("parameters", [])
    if parameters:
        named = [(markdown.code(entry["name"]), entry["in"], _meaning(entry["schema"])) for entry in parameters]
        parts += ["Parameters:", "", markdown.table(("name", "in", "meaning"), named)]
    rows = [(status, markdown.text(answer["description"])) for status, answer in operation["responses"].items()]
    parts += ["Responses:", "", markdown.table(("status", "meaning"), rows)]
    return "\n".join(parts)


def _body(schema: dict[str, Any]) -> str:
    fields = schema.get("properties")
    if not fields:
        return "the file itself"
    return "; ".join(f"`{name}`: {_meaning(entry)}" for name, entry in fields.items())


def _fields(schema: dict[str, Any]) -> list[tuple[str, ...]]:
    required = schema.get("required", [])
    return [
        (markdown.code(name), _type(entry), "yes" if name in required else "", _meaning(entry))
        for name, entry in schema.get("properties", {}).items()
    ]


def _required(schema: dict[str, Any]) -> str:
    return f"An object with at least: {', '.join(markdown.code(name) for name in schema['required'])}.\n"


def _type(schema: dict[str, Any]) -> str:
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        return f"array of {_type(schema['items'])}"
    return str(kind)


def _meaning(schema: dict[str, Any]) -> str:
    parts = [schema.get("description", "")]
    if values := schema.get("enum"):
        parts.append(f"One of {', '.join(markdown.code(value) for value in values)}.")
    items = schema.get("items", {})
    if fields := schema.get("properties") or items.get("properties"):
        parts.append(f"Fields: {', '.join(markdown.code(name) for name in fields)}.")
    return markdown.text(" ".join(part for part in parts if part))
