"""A workspace with its running servers, for tests that use it as people do; and identities planted in its scans."""

from __future__ import annotations

import csv
import hmac
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from data.phantom import batch, scanner
from data.phantom import files as phantom_files
from data.phantom import study as phantom_study
from data.record import Modality, Task
from tests.pipelines import planted_identities
from tests.pipelines.conftest import Run


@dataclass
class Ward:
    """A workspace with its running servers, and how to talk to it."""

    folder: Path
    run: Run
    port: int

    def say(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
        """The JSON result of a command."""
        done = self.run(*arguments, "--json", cwd=self.folder)
        assert done.returncode in codes, f"{arguments}: {done.returncode}\n{done.stderr[-3000:]}"
        return json.loads(done.stdout)

    def prefect(self, path: str, body: dict[str, Any]) -> Any:
        """What the workspace's Prefect server answers to a POST, with the secret that it asks for."""
        key = bytes.fromhex((self.folder / "var" / "keys" / "door").read_text().strip())
        secret = hmac.digest(key, b"prefect", "sha256").hex()
        url = f"http://127.0.0.1:{self.port + 1}/api/{path}"
        return httpx.post(url, json=body, auth=("oncoloop", secret), timeout=30).raise_for_status().json()

    def until(self, found: Any, seconds: float = 180) -> Any:
        """Ask until there is an answer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if answer := found():
                return answer
            time.sleep(1)
        raise AssertionError(f"nothing after {seconds} s")

    def post(self, path: Path, task: str = "") -> httpx.Response:
        """One case through the web front, as a program."""
        token = self.say("login", "mara", "--token", "--days", "1")["token"]
        files = [("files", (path.name, path.read_bytes()))]
        headers = {"Authorization": f"Bearer {token}"}
        url = f"http://127.0.0.1:{self.port}/api/predict"
        return httpx.post(url, files=files, data={"task": task}, headers=headers, timeout=60)


def plant(folder: Path, task: Task, seed: int) -> None:
    """Identities in a batch of volumes: patient 3's header, name and number, and patient 4 as DICOM files and a zip."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    mine = [row for row in rows if row["file_name"] == "scan-0003.nii.gz"]
    for row in mine:
        row |= {
            "file_name": f"{planted_identities.FILE}.nii.gz",
            "patient_id": f"{planted_identities.NAME} {planted_identities.ACCESSION}",
        }
    path = folder / "scan-0003.nii.gz"
    path.rename(folder / mine[0]["file_name"]).write_bytes(
        planted_identities.volume((folder / mine[0]["file_name"]).read_bytes())
    )
    other = [row for row in rows if row["file_name"] == "scan-0004.nii.gz"]
    slices = images(task, seed, 4, [row["label"] for row in other])
    for index, (row, content) in enumerate(zip(other, slices, strict=True)):
        single = index < len(other) - 2
        name = f"{planted_identities.FILE}_{index}.dcm" if single else f"{planted_identities.FILE}.zip"
        row |= {
            "file_name": name,
            "patient_id": planted_identities.MRN,
            "slice": "" if single else str(index - len(other) + 2),
        }
        (folder / name).write_bytes(content if single else planted_identities.zipped(*slices[-2:]))
    (folder / "scan-0004.nii.gz").unlink()
    batch.write_metadata(folder, rows)


def images(task: Task, seed: int, number: int, labels: list[str]) -> list[bytes]:
    """The slices of a patient as DICOM files, the identity all over them; what they show fits the labels."""
    worst = next((label for label in labels if label in task.positive), labels[0])
    study, found = phantom_study.study(task, scanner.SCANNERS["alder-mr"], seed, number, worst), []
    for index, label in enumerate(labels):
        pixels, pixel = study.slice(index, len(labels), label in task.positive)
        found.append(planted_identities.told(phantom_files.dicom(study, pixels, pixel, index, modality=Modality.MR)))
    return found


def uploads(folder: Path, task: Task) -> list[Path]:
    """What is sent to be answered, with identities in it: a zip of two slices, a volume, and a file that is no scan."""
    folder.mkdir()
    two = images(task, 4242, 7, [task.positive[0], task.positive[0]])
    volume = batch.write_study(
        folder, phantom_study.study(task, phantom_study.usual(task), 4242, 8, task.positive[0]), "v"
    )[0]
    content = (folder / volume["file_name"]).read_bytes()
    (folder / volume["file_name"]).unlink()
    made = {
        "_a.zip": planted_identities.zipped(*two),
        "_b.nii.gz": planted_identities.volume(content),
        "_c.dcm": planted_identities.MRN.encode() * 99,
    }
    for name, content in made.items():
        (folder / f"{planted_identities.FILE}{name}").write_bytes(content)
    return [folder / f"{planted_identities.FILE}{name}" for name in made]
