"""Hostile files and tables give one clear sentence each, and nothing is written outside of the folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.batch.manifest import index_batch
from data.core_types import Task
from data.phantom import batch, study
from data.scan import read
from lineage.errors import Fault
from tests.data.mutations import CPU_S, PEAK_MIB, mutate_file

ROOT = Path(__file__).resolve().parents[2]
SOAK = bool(os.environ.get("ONCOLOOP_SOAK"))
MUTATIONS, PROCESSES = (20_000, 20) if SOAK else (300, 2)
LARGEST = 300_000  # bytes of an original: mutating a small file reaches more of its header


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory, lung: Task, brain: Task, real_data: Path) -> Path:
    """Small real DICOM files of every kind, phantoms of both tasks and pictures."""
    folder = tmp_path_factory.mktemp("originals")
    files = (path for path in sorted((real_data / "dicom-zoo").rglob("*")) if path.is_file() and path.suffix != ".csv")
    for path in files:
        if path.stat().st_size < LARGEST:
            (folder / f"zoo-{path.name}").write_bytes(path.read_bytes())
    for task in (lung, brain):
        batch.write_study(
            folder, study.make_study(task, study.usual_scanner(task), 5, 0, task.positive[0]), task.name, 2
        )
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    for number in range(12):  # enough pictures to be picked now and then
        kind = ("png", "jpeg")[number % 2]
        grey.save(folder / f"picture-{number}.{kind}", **({"quality": 60 + number} if kind == "jpeg" else {}))
    return folder


def test_mutated_files_are_read_or_refused_with_one_sentence(originals: Path, home: Path) -> None:
    """Each process may use 6 GiB of address space; a decoder that crashes ends its process and fails the test."""
    share = MUTATIONS // PROCESSES

    def run(seed: int) -> dict[str, Any]:
        folder, last = originals.with_name(f"{originals.name}-{seed}"), Path(f"{originals}-{seed}.now")
        folder.symlink_to(originals)
        command = [sys.executable, "-m", "tests.data.mutations", str(folder), str(seed), str(share)]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert process.returncode == 0, (
            f"crashed at {last.read_text() if last.exists() else 'the start'}: {process.stderr[-500:]}"
        )
        result: dict[str, Any] = json.loads(process.stdout)
        return result

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, range(PROCESSES)))
    bad = "\n".join(line for result in results for line in result["bad"])
    assert not bad, bad
    counts = {kind: sum(result["outcomes"][kind] for result in results) for kind in ("read", "refused")}
    counts |= {name: max(result[name] for result in results) for name in ("cpu_s", "peak_mib")}
    sys.stdout.write(f"{counts}\n")
    assert min(counts["read"], counts["refused"]) > MUTATIONS / 20, counts
    assert counts["peak_mib"] < PEAK_MIB and counts["cpu_s"] < CPU_S, counts


def test_a_refusal_contains_no_control_characters(tmp_path: Path, lung: Task) -> None:
    """A transfer syntax that clears the screen: pydicom's message quotes it unchanged."""
    batch.write_study(tmp_path, study.make_study(lung, study.usual_scanner(lung), 5, 0, "malignant"), "one", 1)
    content = next(tmp_path.rglob("*.dcm")).read_bytes()
    at = content.index(b"1.2.840.10008.1.2", content.index(b"\x02\x00\x10\x00UI"))
    with pytest.raises(Fault) as caught:
        read.read_scan("x.dcm", content[:at] + b"1.2\x1b[2J\n" + content[at + 8 :])
    assert str(caught.value).isprintable(), repr(str(caught.value))


def test_the_same_seed_gives_the_same_mutation() -> None:
    original, donor = bytes(range(256)) * 8, b"other" * 99
    first, second = (mutate_file(original, donor, np.random.default_rng([3, 4])) for _ in range(2))
    assert first == second != mutate_file(original, donor, np.random.default_rng([3, 5]))


HEADER = "file_name,patient_id,task,label\n"
TABLES = {
    "path traversal": HEADER + "../../outside.png,7,lung-ct,normal\n",
    "absolute path": HEADER + "/etc/hostname,7,lung-ct,normal\n",
    "windows path": HEADER + "..\\outside.png,7,lung-ct,normal\n",
    "link": HEADER + "link.png,7,lung-ct,normal\n",
    "link to a folder": HEADER + "away/outside.png,7,lung-ct,normal\n",
    "link to a device": HEADER + "zero.png,7,lung-ct,normal\n",
    "pipe": HEADER + "pipe.png,7,lung-ct,normal\n",
    "socket": HEADER + "socket.png,7,lung-ct,normal\n",
    "long field": HEADER + f"one.png,{'7' * 100_000},lung-ct,normal\n",
    "long name": HEADER + f"{'a/' * 450}x.png,7,lung-ct,normal\n",
    "formula": HEADER + 'one.png,"=HYPERLINK(""http://x"")",lung-ct,normal\n',
    "command": HEADER + "one.png,@SUM(1+1)*cmd|' /C calc'!A0,lung-ct,normal\n",
    "nul": HEADER + "one.png\0.exe,7,lung-ct,normal\n",
    "escape sequence": HEADER + "one.png,\x1b[2J,lung-ct,normal\n",
    "right to left": HEADER + "one.png,7\u202egnp,lung-ct,normal\n",
    "a million columns": HEADER.strip() + ",x" * 1_000_000 + "\n",
    "missing": HEADER + "nothing.png,7,lung-ct,normal\n",
    "nothing": "",
}


@pytest.mark.parametrize("kind", TABLES)
def test_hostile_tables_are_refused_and_nothing_is_written_outside(home: Path, lung: Task, kind: str) -> None:
    folder, outside = home.parent / "inbox" / "batch", home.parent / "outside.png"
    folder.mkdir(parents=True)
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(stream, "PNG")
    outside.write_bytes(stream.getvalue())
    (folder / "one.png").write_bytes(stream.getvalue())
    (folder / "link.png").symlink_to(outside)
    (folder / "away").symlink_to(home.parent)
    (folder / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):
        listener.bind("socket.png")
    (folder / "metadata.csv").write_text(TABLES[kind], encoding="utf-8")
    before = sizes_by_path(home.parent)
    with pytest.raises(Fault) as caught:
        index_batch(folder, home.parent / "staging" / "batch", lung)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()
    assert sizes_by_path(home.parent) == before


def test_file_names_that_are_not_utf_8_are_refused(home: Path, lung: Task) -> None:
    folder = home.parent / "inbox" / "batch"
    folder.mkdir(parents=True)
    name = os.fsencode(str(folder)) + b"/caf\xe9.png"
    with open(name, "wb") as stream:  # noqa: PTH123  a path of bytes
        stream.write(b"x")
    (folder / "metadata.csv").write_bytes(HEADER.encode() + b"caf\xe9.png,7,lung-ct,normal\n")
    with pytest.raises(Fault, match="UTF-8"):
        index_batch(folder, home.parent / "staging" / "batch", lung)


def sizes_by_path(folder: Path) -> dict[str, int]:
    """Every path below a folder and its size, without following links."""
    return {str(path): path.lstat().st_size for path in folder.rglob("*") if path.name != "staging"}
