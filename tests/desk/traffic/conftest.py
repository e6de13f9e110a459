"""A real desk on its public port, in front of a served release."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from lineage.record import ledger
from lineage.record.events import EventKind
from tests.desk.desk_process import served
from tests.serving.conftest import Endpoint, bento, dicom, endpoint, served_home, tiny

__all__ = ["bento", "endpoint", "served_home", "tiny"]  # fixtures of the served release


@dataclass(frozen=True)
class Front:
    """A running desk: its public address, its process, the release behind it, and a program's token."""

    url: str
    process_id: int
    release: Endpoint

    @property
    def headers(self) -> dict[str, str]:
        """The credentials of a program."""
        return {"Authorization": f"Bearer {self.release.token}"}

    def answers(self) -> bool:
        """Whether a usual scan gets its answer on eight new connections, so from every worker."""
        headers = self.headers | {"Content-Type": "application/dicom"}
        address = f"{self.url}/api/predict"
        responses = [httpx.post(address, content=dicom(True), headers=headers, timeout=30) for _ in range(8)]
        return all(response.status_code == 200 and response.json()["answer"] == "tumour" for response in responses)


def open_front(release: Endpoint, impatient: bool) -> Iterator[Front]:
    """A desk in front of the release, with usual or much shorter time limits."""
    ledger.append(EventKind.RELEASE_ACTIVATED, "r1", {"url": release.server.url})
    with served(impatient) as (port, process_id):
        yield Front(f"http://127.0.0.1:{port}", process_id, release)


@pytest.fixture(scope="module")
def front(endpoint: Endpoint) -> Iterator[Front]:
    """A desk with its usual limits."""
    yield from open_front(endpoint, impatient=False)


@pytest.fixture(scope="module")
def impatient_front(endpoint: Endpoint) -> Iterator[Front]:
    """A desk with much shorter time limits."""
    yield from open_front(endpoint, impatient=True)
