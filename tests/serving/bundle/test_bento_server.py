from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lineage import accounts
from lineage.errors import Fault
from lineage.record.verdict import Outcome, Verdict
from serving.bundle import bento_server
from serving.inference.manifest import read_manifest
from serving.inference.predict import Upload
from tests.serving.conftest import Endpoint, dicom

pytestmark = pytest.mark.usefixtures("served_home")


def compare_with_changed_manifest(
    endpoint: Endpoint, folder: Path, change: Callable[[dict[str, Any]], None]
) -> Verdict:
    """The verdict on the served release, compared with a changed manifest."""
    shutil.copytree(endpoint.folder, folder)
    manifest = read_manifest(folder)
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return bento_server.compare(endpoint.tag, folder, endpoint.server.url, endpoint.token)


def test_a_difference_over_the_tolerance_fails(endpoint: Endpoint, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["warmup"][0]["probabilities"]["tumour"] -= 0.01

    verdict = compare_with_changed_manifest(endpoint, tmp_path / "r", change)
    assert verdict.outcome is Outcome.FAIL and verdict.exit_code == 3
    assert verdict.reasons == ("00-a.dcm: a probability differs by 0.0100, over 0.0005",)


def test_a_difference_within_the_tolerance_passes(endpoint: Endpoint, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["warmup"][0]["probabilities"]["tumour"] -= 0.0004

    verdict = compare_with_changed_manifest(endpoint, tmp_path / "r", change)
    assert verdict.outcome is Outcome.PASS
    assert verdict.figures["largest_difference"]["00-a.dcm"] == pytest.approx(0.0004, abs=1e-6)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [("answer", "normal", "the answer is tumour, but normal was approved"), ("outcome", "inconclusive", "approved")],
)
def test_a_different_answer_fails(endpoint: Endpoint, tmp_path: Path, key: str, value: str, reason: str) -> None:
    verdict = compare_with_changed_manifest(
        endpoint, tmp_path / "r", lambda manifest: manifest["warmup"][0].update({key: value})
    )
    assert verdict.outcome is Outcome.FAIL and reason in verdict.reasons[0]


def test_a_different_release_fails(endpoint: Endpoint, tmp_path: Path) -> None:
    verdict = compare_with_changed_manifest(endpoint, tmp_path / "r", lambda manifest: manifest.update(release="r2"))
    assert verdict.outcome is Outcome.FAIL and "release r1 answered" in verdict.reasons[0]


def test_a_task_without_a_warm_up_scan_is_inconclusive(endpoint: Endpoint, tmp_path: Path) -> None:
    verdict = compare_with_changed_manifest(endpoint, tmp_path / "r", lambda manifest: manifest.update(warmup=[]))
    assert verdict.outcome is Outcome.INCONCLUSIVE and "tiny-mr has no warm-up scan" in verdict.reasons[0]


def test_a_refusal_contains_the_endpoints_reason(endpoint: Endpoint) -> None:
    with pytest.raises(Fault, match=r"refused \(422\): junk\.dcm"):
        bento_server.ask(endpoint.server.url, endpoint.token, [Upload("junk.dcm", b"x")])
    with pytest.raises(Fault, match=r"refused \(401\): Send a valid bearer token"):
        bento_server.ask(endpoint.server.url, "guess", [Upload("a.dcm", dicom(True))])


def test_a_server_that_does_not_answer_is_reported_in_time() -> None:
    url, started_at = f"http://127.0.0.1:{bento_server.free_port()}", time.monotonic()
    with pytest.raises(Fault, match=r"was not ready within 0\.5 s"):
        bento_server.wait_ready(url, 0.5)
    with pytest.raises(Fault, match="does not answer"):
        bento_server.ask(url, "token", [Upload("a.dcm", b"x")])
    assert time.monotonic() - started_at < 5


def test_a_missing_bento_is_named() -> None:
    with pytest.raises(Fault, match="there is no Bento oncoloop:absent"):
        bento_server.start("oncoloop:absent")


def test_the_account_of_the_check_is_created_once() -> None:
    for _ in range(2):
        holder = accounts.bearer(bento_server.probe_token(), "predict")
        assert holder and holder.name == accounts.CHECK_ACCOUNT
    assert [person.name for person in accounts.people()].count(accounts.CHECK_ACCOUNT) == 1


def test_the_command_serves_an_explicit_tag_only_on_the_loopback(served_home: Path) -> None:
    command = bento_server.serve_command("oncoloop:r1", 4321, 3)
    assert command[-5:] == ["oncoloop:r1", "--host", "127.0.0.1", "--port", "4321"]
    assert "BENTOML_CONFIG_OPTIONS=services.oncoloop.workers=3" in command
    assert f"TMPDIR={served_home / 'run' / 'serve-4321'}" in command and (served_home / "run" / "serve-4321").is_dir()
