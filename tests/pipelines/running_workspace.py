"""A workspace with running servers, for tests that use it like people; and identities planted in its scans."""

from __future__ import annotations

import csv
import hmac
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from data.core_types import Modality, Task
from data.phantom import batch, scanner
from data.phantom import files as phantom_files
from data.phantom import study as phantom_study
from tests.pipelines import planted_identities
from tests.pipelines.conftest import Run


@dataclass
class RunningWorkspace:
    """A workspace with running servers, and the ways to use it."""

    folder: Path
    run: Run
    port: int

    def run_json(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
        """Run a command and return its JSON result."""
        process = self.run(*arguments, "--json", cwd=self.folder)
        assert process.returncode in codes, f"{arguments}: {process.returncode}\n{process.stderr[-3000:]}"
        return json.loads(process.stdout)

    def prefect(self, path: str, body: dict[str, Any]) -> Any:
        """The answer of the workspace's Prefect server to a POST with its secret."""
        key = bytes.fromhex((self.folder / "var" / "keys" / "door").read_text().strip())
        secret = hmac.digest(key, b"prefect", "sha256").hex()
        url = f"http://127.0.0.1:{self.port + 1}/api/{path}"
        return httpx.post(url, json=body, auth=("oncoloop", secret), timeout=30).raise_for_status().json()

    def wait_for(self, condition: Any, seconds: float = 180) -> Any:
        """Call `condition` until its result is true, and return it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if answer := condition():
                return answer
            time.sleep(1)
        raise AssertionError(f"nothing after {seconds} s")

    def post(self, path: Path, task: str = "") -> httpx.Response:
        """Send one case to the web front, as a program with a token."""
        token = self.run_json("login", "mara", "--token", "--days", "1")["token"]
        files = [("files", (path.name, path.read_bytes()))]
        headers = {"Authorization": f"Bearer {token}"}
        url = f"http://127.0.0.1:{self.port}/api/predict"
        return httpx.post(url, files=files, data={"task": task}, headers=headers, timeout=60)


def plant(folder: Path, task: Task, seed: int) -> None:
    """Plant identities in a batch of volumes: in patient 3's header and ids, and in patient 4's DICOM files."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows_of_patient_3 = [row for row in rows if row["file_name"] == "scan-0003.nii.gz"]
    for row in rows_of_patient_3:
        row |= {
            "file_name": f"{planted_identities.FILE}.nii.gz",
            "patient_id": f"{planted_identities.NAME} {planted_identities.ACCESSION}",
        }
    path = folder / "scan-0003.nii.gz"
    path.rename(folder / rows_of_patient_3[0]["file_name"]).write_bytes(
        planted_identities.nifti_with_identity((folder / rows_of_patient_3[0]["file_name"]).read_bytes())
    )
    rows_of_patient_4 = [row for row in rows if row["file_name"] == "scan-0004.nii.gz"]
    slices = images(task, seed, 4, [row["label"] for row in rows_of_patient_4])
    for index, (row, content) in enumerate(zip(rows_of_patient_4, slices, strict=True)):
        is_single = index < len(rows_of_patient_4) - 2
        name = f"{planted_identities.FILE}_{index}.dcm" if is_single else f"{planted_identities.FILE}.zip"
        row |= {
            "file_name": name,
            "patient_id": planted_identities.MRN,
            "slice": "" if is_single else str(index - len(rows_of_patient_4) + 2),
        }
        (folder / name).write_bytes(content if is_single else planted_identities.zipped(*slices[-2:]))
    (folder / "scan-0004.nii.gz").unlink()
    batch.write_metadata(folder, rows)


def images(task: Task, seed: int, number: int, labels: list[str]) -> list[bytes]:
    """The slices of a patient as DICOM files full of identities; the pixels fit the labels."""
    study_label = next((label for label in labels if label in task.positive), labels[0])
    study, files = phantom_study.make_study(task, scanner.SCANNERS["alder-mr"], seed, number, study_label), []
    for index, label in enumerate(labels):
        pixels, pixel = study.slice(index, len(labels), label in task.positive)
        files.append(
            planted_identities.dicom_with_identity(
                phantom_files.dicom(study, pixels, pixel, index, modality=Modality.MR)
            )
        )
    return files


def uploads(folder: Path, task: Task) -> list[Path]:
    """Uploads with identities: a zip of two slices, a volume, and a file that is not a scan."""
    folder.mkdir()
    slices = images(task, 4242, 7, [task.positive[0], task.positive[0]])
    volume = batch.write_study(
        folder, phantom_study.make_study(task, phantom_study.usual_scanner(task), 4242, 8, task.positive[0]), "v"
    )[0]
    content = (folder / volume["file_name"]).read_bytes()
    (folder / volume["file_name"]).unlink()
    contents = {
        "_a.zip": planted_identities.zipped(*slices),
        "_b.nii.gz": planted_identities.nifti_with_identity(content),
        "_c.dcm": planted_identities.MRN.encode() * 99,
    }
    for name, content in contents.items():
        (folder / f"{planted_identities.FILE}{name}").write_bytes(content)
    return [folder / f"{planted_identities.FILE}{name}" for name in contents]
