"""A workspace for the desk: people, a release, versions with verdicts, and answers in the journal."""

from __future__ import annotations

import io
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from desk import app
from desk.accounts import credentials
from lineage import accounts, keys
from lineage.record import database, journal, ledger
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome, Verdict
from serving.inference import heatmap

RELEASE = "0123456789ab"
NAMES = {"clinician": "cleo", "engineer": "enno", "auditor": "auda"}
METRICS = {"auroc": {"value": 0.913, "low": 0.854, "high": 0.957}, "clusters": 42}
BASELINES = {
    "slice position": {
        "auroc": {"value": 0.771, "low": 0.7, "high": 0.83},
        "difference": {"value": 0.028, "low": -0.05, "high": 0.1},
    }
}
MANIFEST = {
    "release": RELEASE,
    "created": "2026-01-31T12:00:00Z",
    "serving": {"engine": "openvino", "abstain_below": 0.5, "max_upload_mb": 1},
    "tasks": {
        "lung-ct": {
            "title": "Lung tumour on a chest CT slice",
            "classes": ["normal", "benign", "malignant"],
            "positive": ["malignant"],
            "threshold": 0.41,
            "version": "3",
            "data_version": "c0ffee1234567890",
            "note": "",
            "metrics": METRICS,
            "baselines": BASELINES,
            "baseline_note": "On the test patients this model was not shown to be better than slice position alone.",
            "verdict": "inconclusive",
            "approved_by": "enno",
            "approval_reason": "small but sound test cohort",
        },
        "pancreas-ct": {
            "title": "Pancreas tumour on an abdominal CT slice",
            "classes": ["normal", "tumour"],
            "positive": ["tumour"],
            "threshold": 0.3,
            "version": "1",
            "data_version": "c0ffee1234567890",
            "note": "phantoms only",
            "metrics": METRICS,
            "verdict": "pass",
            "approved_by": "system",
            "approval_reason": "",
        },
    },
}


def heat_map() -> str:
    """A small map with its evidence at the upper left."""
    heat = np.zeros((8, 8), np.float32)
    heat[1:4, 1:4] = 1.0
    return heatmap.base64_png(heat)


def journal_row(actor: str = "cleo", task: str = "lung-ct", **changes: Any) -> journal.JournalRow:
    """One answer as serving writes it to the journal."""
    classes = MANIFEST["tasks"][task]["classes"]  # type: ignore[index]
    values: dict[str, Any] = {
        "id": uuid.uuid4().hex,
        "at": database.now(),
        "actor": actor,
        "release": RELEASE,
        "task": task,
        "version": MANIFEST["tasks"][task]["version"],
        "cluster": "P0123456789ab",
        "inputs": ["ab" * 32],  # type: ignore[index]
        "description": {"mean": 0.4},
        "embedding": [0.0] * 32,
        "probabilities": [0.1, 0.08, 0.82][-len(classes) :],
        "answer": classes[-1],
        "score": 0.82,
        "outcome": "pass",
        "reasons": [],
        "slices": [{"index": 0, "score": 0.82}],
        "map": heat_map(),
        "engine": {"engine": "openvino", "version": "2026.4.1", "precision": "float32"},
        "duration_ms": 4.2,
    }
    return journal.JournalRow(**values | changes)


def record_judged_version(
    task: str, version: str, outcome: Outcome, reason: str, logged: dict[str, Any] | None = None, **gate_figures: Any
) -> None:
    """Record a version as a retraining does: logged, and judged by the training gate."""
    facts = {"version": version, "run_id": "r" + version, "data_version": "c0ffee1234"}
    ledger.append(EventKind.MODEL_LOGGED, task, facts | (logged or {}))
    figures = {"overall": {"auroc": {"difference": 0.02, "low": -0.01, "high": 0.05}}, "clusters": 42, **gate_figures}
    thresholds = {"margin_auroc": 0.05, "budget": 0.05, "looks_per_year": 20}
    verdict = Verdict("training", f"{task}/{version}", outcome, (reason,), figures, thresholds)
    ledger.record_verdict(verdict, task=task, version=version)


@pytest.fixture
def workspace(home: Path) -> Path:
    """`home` with three people, the release's manifest, a champion, a rejected version and a waiting one."""
    credentials._tokens.clear()
    credentials._checked.clear()
    for role, name in NAMES.items():
        accounts.add(name, role)
    folder = home / "releases" / RELEASE
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    record_judged_version("lung-ct", "3", Outcome.INCONCLUSIVE, "only 8 positive clusters, 10 are needed")
    ledger.append(
        EventKind.APPROVAL, "lung-ct/3", {"decision": "approve", "reason": "small but sound test cohort"}, "enno"
    )
    ledger.append(EventKind.MODEL_PROMOTED, "lung-ct", {"version": "3"}, "enno")
    record_judged_version("lung-ct", "4", Outcome.FAIL, "worse than the champion by 0.12")
    ledger.append(EventKind.MODEL_REJECTED, "lung-ct", {"version": "4", "reason": "the training gate said fail"})
    record_judged_version("lung-ct", "5", Outcome.INCONCLUSIVE, "superiority is not shown")
    return home


@pytest.fixture
def open_desk(workspace: Path) -> Iterator[Callable[[str], TestClient]]:
    """Sign a role in: `open_desk("clinician")` is a browser with that person's cookie; "" is not signed in."""
    assert workspace.is_dir()
    clients = []

    def enter(role: str) -> TestClient:
        client = TestClient(app.create(), follow_redirects=False, raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        if role:
            response = client.post("/enter", data={"token": accounts.invite(NAMES[role])})
            assert response.status_code == 303
        return client

    yield enter
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def csrf() -> Callable[..., str]:
    """The CSRF token in a page's forms."""

    def token(client: TestClient, address: str) -> str:
        page = client.get(address, follow_redirects=True).text
        field = re.search(r'name="csrf" (?:value|content)="([0-9a-f]{64})"', page)
        assert field, page
        return field.group(1)

    return token


@pytest.fixture
def add_case(workspace: Path) -> Callable[..., str]:
    """Write one answer to the journal and return its id. Keyword arguments set fields of the row."""
    assert workspace.is_dir()

    def append(actor: str = "cleo", task: str = "lung-ct", **changes: Any) -> str:
        row = journal_row(actor, task, **changes)
        journal.append(row)
        return row.id

    return append


class FakeRelease:
    """A release's HTTP interface in a thread: checks the token, journals, answers, and records the requests."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.problem: tuple[int, str] | None = None
        self.changes: dict[str, Any] = {}
        self.left_out: list[dict[str, str]] = []

    async def predict(self, request: Request) -> Response:
        """POST /predict."""
        person = accounts.bearer(request.headers.get("authorization", "").removeprefix("Bearer "), "predict")
        if person is None:
            return self._refusal(401, "Send a valid bearer token.")
        assert request.headers.get("oncoloop-desk") == keys.server_secret("release")
        self.headers.append(dict(request.headers))
        form = await request.form()
        files = [(sent.filename, len(await sent.read())) for sent in form.getlist("files")]  # type: ignore[union-attr]
        self.requests.append({"actor": person.name, "files": files, "task": form.get("task")})
        if self.problem:
            return self._refusal(*self.problem)
        row = journal_row(person.name, **self.changes)
        journal.append(row)
        facts = {"id": row.id, "task": row.task, "map": row.map, "map_class": "malignant", "shown": 0}
        return JSONResponse(facts | {"answer": row.answer, "release": row.release, "left_out": self.left_out})

    @staticmethod
    def _refusal(status: int, detail: str) -> Response:
        body = {"type": "about:blank", "title": "No", "status": status, "detail": detail}
        return JSONResponse(body, status, media_type="application/problem+json")


def serve(application: Any) -> Iterator[str]:
    """A real server of an application on a free port; yields its address."""
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture
def release(workspace: Path) -> Iterator[FakeRelease]:
    """A live release that answers over HTTP."""
    assert workspace.is_dir()
    fake_release = FakeRelease()
    for url in serve(Starlette(routes=[Route("/predict", fake_release.predict, methods=["POST"])])):
        ledger.append(EventKind.RELEASE_ACTIVATED, RELEASE, {"url": url})
        yield fake_release


@pytest.fixture
def desk_url(workspace: Path) -> Iterator[str]:
    """The address of the desk on a real server."""
    assert workspace.is_dir()
    yield from serve(app.create())


@pytest.fixture
def picture() -> bytes:
    """A small grey PNG with contrast."""
    from PIL import Image

    stream = io.BytesIO()
    ramp = np.add.outer(np.arange(24), np.arange(24)) * 5
    Image.fromarray(ramp.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
