"""Mutated uploads in numbers, from several connections at once: an answer or a reason, memory flat, nothing left."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from data.phantom import batch
from data.phantom import study as phantom_study
from data.record import Modality, PixelSettings, Pooling, Task
from data.scan import zip_archive
from lineage.record import journal
from serving.bundle import bento_server
from tests.conftest import ROOT
from tests.data.mutations import mutate_file
from tests.serving import hostile_inputs
from tests.serving.conftest import Endpoint, dicom, png

SOAK = bool(os.environ.get("ONCOLOOP_SOAK"))
UPLOADS, SENDERS = (10_000, 4) if SOAK else (200, 4)
PARTS = 4  # after which memory is looked at
LARGEST = 300_000  # bytes of an original
FLAT = 40e6  # bytes that a worker may grow by over the second half
BRAIN = Task(
    name="tiny-mr",
    title="Brain",
    organ="brain",
    modality=Modality.MR,
    body_parts=("BRAIN",),
    classes=("normal", "tumour"),
    positive=("tumour",),
    unit="slice",
    cluster="patient",
    ordered=False,
    pixels=PixelSettings(64, None),
    pooling=Pooling("topk", 3),
    sensitivity=0.9,
    note="",
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Phantoms of every format, packed ones too, and the small files of the zoo where it is at hand."""
    folder = tmp_path_factory.mktemp("phantoms")
    study = phantom_study.make_study(BRAIN, phantom_study.usual_scanner(BRAIN), 5, 0, "tumour")
    batch.write_study(folder, study, "one", 3)
    found = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
    grey = np.random.default_rng(0).integers(0, 65535, (64, 64), dtype=np.uint16)
    for number, (kind, pixels) in enumerate((("png", grey), ("png", grey // 257), ("jpeg", grey // 257)) * 3):
        path = folder / f"{number}.{kind}"
        Image.fromarray(pixels if pixels.max() > 255 else pixels.astype(np.uint8)).save(path)
        found.append(path.read_bytes())
    found += [
        dicom(True),
        png(True),
        hostile_inputs.nifti((64, 64, 2), pixels=bytes(32768)),
        hostile_inputs.floating(np.eye(64)),
    ]
    found += [
        zip_archive.pack_files({"a.dcm": dicom(True), "b.dcm": dicom(False, 1, 1.0)}),
        hostile_inputs.packed(("a.png", png(True))),
    ]
    zoo = Path(os.environ.get("ONCOLOOP_REAL_DATA", ROOT.parent / "shared" / "data")) / "dicom-zoo"
    small = (path for path in sorted(zoo.rglob("*")) if path.is_file() and path.stat().st_size < LARGEST)
    return found + [path.read_bytes() for path in small if path.suffix != ".csv"]


def upload(client: httpx.Client, originals: list[bytes], number: int) -> str:
    """Send mutation `number`, always the same, in one of three ways; what came of it, "bad" with a reason if amiss."""
    random = np.random.default_rng([7, number])
    content, other = (originals[int(random.integers(len(originals)))] for _ in range(2))
    content = mutate_file(content, other, random)
    way, task = int(random.integers(4)), ("tiny-mr", "")[int(random.integers(5) == 0)]
    if way < 2:
        files = [("files", ("x.dcm", content))] + [("files", ("y.dcm", dicom(False, 1, 1.0)))] * way
        reply = client.post("/predict", files=files, data={"task": task})
    else:
        kind = ("application/dicom", "application/zip")[way - 2]
        reply = client.post("/predict", content=content, headers={"Content-Type": kind}, params={"task": task})
    if reply.status_code == 200:
        said = json.loads(reply.text, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
        return "200" if math.isfinite(said["score"]) else f"bad {number}: {said['score']}"
    problem = reply.json() if reply.headers["content-type"] == "application/problem+json" else {}
    clear = 400 <= reply.status_code < 500 and 10 < len(problem.get("detail", "")) < 700
    return str(reply.status_code) if clear else f"bad {number}: {reply.status_code} {reply.text[:200]}"


def test_mutated_uploads_are_answered_or_refused(endpoint: Endpoint, house: Path, originals: list[bytes]) -> None:
    hostile_inputs.fed(endpoint)
    headers = bento_server.request_headers(endpoint.token)
    files, journalled, begun = hostile_inputs.files(endpoint, house), journal.count(), time.monotonic()
    held, seen = [hostile_inputs.resident(endpoint)], Counter[str]()
    with (
        httpx.Client(base_url=endpoint.server.url, headers=headers, timeout=120) as client,
        ThreadPoolExecutor(SENDERS) as pool,
    ):
        for first in range(0, UPLOADS, UPLOADS // PARTS):
            numbers = range(first, first + UPLOADS // PARTS)
            seen.update(pool.map(lambda number: upload(client, originals, number), numbers))
            held.append(hostile_inputs.resident(endpoint))
    megabytes = [{pid: round(size / 1e6) for pid, size in one.items()} for one in held]
    sys.stdout.write(f"{UPLOADS} uploads in {time.monotonic() - begun:.0f} s: {dict(seen)}, MB held {megabytes}\n")
    assert [kind for kind in seen if kind.startswith("bad")] == []
    assert set(seen) <= {"200", "400", "413", "422"} and min(seen["200"], seen["422"]) > UPLOADS / 40
    assert journal.count() - journalled == seen["200"], "one row for each answer"
    assert held[0].keys() == held[-1].keys(), "a worker died"
    assert max(held[-1][pid] - held[PARTS // 2][pid] for pid in held[0]) < FLAT, megabytes
    assert hostile_inputs.answers(endpoint) and hostile_inputs.files(endpoint, house) - files == set()
