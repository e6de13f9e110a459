"""Many mutated uploads on several connections: each gets an answer or a reason; memory and files do not grow."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from data.phantom import batch
from data.phantom import study as phantom_study
from data.scan import zip_archive
from lineage.record import journal
from serving.bundle import bento_server
from tests.conftest import ROOT
from tests.data.mutations import mutate_file
from tests.serving import hostile_inputs
from tests.serving.brain_task import BRAIN
from tests.serving.conftest import Endpoint, dicom, png

SOAK = bool(os.environ.get("ONCOLOOP_SOAK"))
UPLOADS, SENDERS = (10_000, 4) if SOAK else (200, 4)
PARTS = 4  # memory is measured after each part
MAX_ORIGINAL_BYTES = 300_000
MAX_GROWTH = 40e6  # bytes that a worker may grow by in the second half
TINY_BRAIN = replace(BRAIN, name="tiny-mr", classes=("normal", "tumour"))  # the task of the served release


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Phantoms of every format, also zipped, and the small files of the DICOM zoo if it is available."""
    folder = tmp_path_factory.mktemp("phantoms")
    study = phantom_study.make_study(TINY_BRAIN, phantom_study.usual_scanner(TINY_BRAIN), 5, 0, "tumour")
    batch.write_study(folder, study, "one", 3)
    contents = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
    grey = np.random.default_rng(0).integers(0, 65535, (64, 64), dtype=np.uint16)
    for number, (kind, pixels) in enumerate((("png", grey), ("png", grey // 257), ("jpeg", grey // 257)) * 3):
        path = folder / f"{number}.{kind}"
        Image.fromarray(pixels if pixels.max() > 255 else pixels.astype(np.uint8)).save(path)
        contents.append(path.read_bytes())
    contents += [
        dicom(True),
        png(True),
        hostile_inputs.nifti((64, 64, 2), pixels=bytes(32768)),
        hostile_inputs.floating(np.eye(64)),
    ]
    contents += [
        zip_archive.pack_files({"a.dcm": dicom(True), "b.dcm": dicom(False, 1, 1.0)}),
        hostile_inputs.packed(("a.png", png(True))),
    ]
    zoo = Path(os.environ.get("ONCOLOOP_REAL_DATA", ROOT.parent / "shared" / "data")) / "dicom-zoo"
    small = (path for path in sorted(zoo.rglob("*")) if path.is_file() and path.stat().st_size < MAX_ORIGINAL_BYTES)
    return contents + [path.read_bytes() for path in small if path.suffix != ".csv"]


def upload(client: httpx.Client, originals: list[bytes], number: int) -> str:
    """Send mutation `number`, always the same, in one of three ways; what came of it, "bad" with a reason if amiss."""
    random = np.random.default_rng([7, number])
    content, second_content = (originals[int(random.integers(len(originals)))] for _ in range(2))
    content = mutate_file(content, second_content, random)
    variant, task = int(random.integers(4)), ("tiny-mr", "")[int(random.integers(5) == 0)]
    if variant < 2:
        files = [("files", ("x.dcm", content))] + [("files", ("y.dcm", dicom(False, 1, 1.0)))] * variant
        response = client.post("/predict", files=files, data={"task": task})
    else:
        kind = ("application/dicom", "application/zip")[variant - 2]
        response = client.post("/predict", content=content, headers={"Content-Type": kind}, params={"task": task})
    if response.status_code == 200:
        answer = json.loads(response.text, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
        return "200" if math.isfinite(answer["score"]) else f"bad {number}: {answer['score']}"
    problem = response.json() if response.headers["content-type"] == "application/problem+json" else {}
    is_clear = 400 <= response.status_code < 500 and 10 < len(problem.get("detail", "")) < 700
    return str(response.status_code) if is_clear else f"bad {number}: {response.status_code} {response.text[:200]}"


def test_mutated_uploads_are_answered_or_refused(endpoint: Endpoint, served_home: Path, originals: list[bytes]) -> None:
    hostile_inputs.send_largest_scan(endpoint)
    headers = bento_server.request_headers(endpoint.token)
    files_before = hostile_inputs.state_files(endpoint, served_home)
    rows_before, started_at = journal.count(), time.monotonic()
    memory, results = [hostile_inputs.resident(endpoint)], Counter[str]()
    with (
        httpx.Client(base_url=endpoint.server.url, headers=headers, timeout=120) as client,
        ThreadPoolExecutor(SENDERS) as pool,
    ):
        for first in range(0, UPLOADS, UPLOADS // PARTS):
            numbers = range(first, first + UPLOADS // PARTS)
            results.update(pool.map(lambda number: upload(client, originals, number), numbers))
            memory.append(hostile_inputs.resident(endpoint))
    megabytes = [{pid: round(size / 1e6) for pid, size in sizes.items()} for sizes in memory]
    seconds = time.monotonic() - started_at
    sys.stdout.write(f"{UPLOADS} uploads in {seconds:.0f} s: {dict(results)}, MB of memory {megabytes}\n")
    assert [kind for kind in results if kind.startswith("bad")] == []
    assert set(results) <= {"200", "400", "413", "422"} and min(results["200"], results["422"]) > UPLOADS / 40
    assert journal.count() - rows_before == results["200"], "one row for each answer"
    assert memory[0].keys() == memory[-1].keys(), "a worker died"
    assert max(memory[-1][pid] - memory[PARTS // 2][pid] for pid in memory[0]) < MAX_GROWTH, megabytes
    assert hostile_inputs.still_answers(endpoint)
    assert hostile_inputs.state_files(endpoint, served_home) - files_before == set()
