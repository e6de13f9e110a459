"""A Bento's server: start it, wait until it is ready, send it scans, compare its answers, stop it."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineage import accounts, keys, paths
from lineage.child_process import tethered
from lineage.errors import Fault
from lineage.record.verdict import Outcome, Verdict
from serving.inference.manifest import WARMUP, read_manifest
from serving.inference.predict import Upload
from serving.inference.release_integrity import bento_folder
from serving.inference.request import DESK_HEADER

log = logging.getLogger(__name__)
NAME = "oncoloop"
GRACE = 15.0  # seconds that a server gets to finish its open requests
ANSWER_SECONDS = 60.0  # without a byte, after which a request to a release fails
START_SECONDS = 120.0  # until a server that starts must be ready


@dataclass(frozen=True)
class Server:
    """A running `bentoml serve` of one release."""

    tag: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """Let the server finish its open requests, then end it with all its workers."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def environment() -> dict[str, str]:
    """The environment of BentoML's processes: the caller's, with every path below `ONCOLOOP_HOME`."""
    return os.environ | paths.environment() | {"PYTHONDONTWRITEBYTECODE": "1"}


def serve_command(tag: str, port: int, workers: int) -> list[str]:
    """The command that serves a Bento by its explicit tag on the loopback; run it with `environment()`.

    The command ends at once, with the reason in its log, if a file of the Bento differs from the released one.
    This function creates one upload folder per port; uploads stay there only during their request.
    """
    uploads = paths.state_path("run", f"serve-{port}")
    uploads.mkdir(exist_ok=True)
    settings = [
        f"TMPDIR={uploads}",
        "PYTHONDONTWRITEBYTECODE=1",
        f"BENTOML_CONFIG_OPTIONS=services.{NAME}.workers={workers}",
    ]
    serve = ["-P", "-m", "serving.bundle.launch", tag, "--host", "127.0.0.1", "--port", str(port)]
    return ["/usr/bin/env", *settings, sys.executable, *serve]


def start(tag: str, port: int = 0, workers: int = 2) -> Server:
    """Start a server in its own session; it ends with this process. Port 0 takes a free port.

    The server is not ready yet: see `wait_ready`.
    """
    if not bento_folder(tag).is_dir():
        raise Fault(f"there is no Bento {tag}; build the release first")
    port = port or free_port()
    log_file = paths.state_path("logs", f"serve-{tag.partition(':')[2]}-{port}.log")
    with log_file.open("ab") as stream:
        process = subprocess.Popen(
            tethered(serve_command(tag, port, workers), signal.SIGTERM),
            cwd=paths.state_path("run", "x").parent,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Server(tag, f"http://127.0.0.1:{port}", process, log_file)


def wait_ready(url: str, seconds: float = 120.0, server: Server | None = None) -> None:
    """Wait until a release answers /readyz. Raises Fault after `seconds`, or as soon as its process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server and server.process.poll() is not None:
            raise Fault(f"{server.tag} ended during its start{_last_error(server.log)}; see {server.log}")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise Fault(f"{url} was not ready within {seconds:g} s" + (f"; see {server.log}" if server else ""))


def request_headers(token: str) -> dict[str, str]:
    """The headers of a request to a release: the person's token, and the key that only the desk has."""
    return {"Authorization": f"Bearer {token}", DESK_HEADER: keys.server_secret("release")}


def ask(url: str, token: str, uploads: list[Upload], task: str = "") -> dict[str, Any]:
    """Send one case to a served release and return its answer. Raises Fault with the endpoint's own reason."""
    import httpx

    files = [("files", (upload.name, upload.content, "application/octet-stream")) for upload in uploads]
    try:
        response = httpx.post(
            f"{url}/predict",
            data={"task": task},
            files=files,
            headers=request_headers(token),
            timeout=ANSWER_SECONDS,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise Fault(f"{url} does not answer ({error}); is the release served?") from error
    if response.is_error:
        raise Fault(f"{url} refused ({response.status_code}): {_problem_detail(response.content)}")
    answer: dict[str, Any] = response.json()
    return answer


def check(tag: str, folder: Path, workers: int = 1) -> Verdict:
    """Serve a Bento, send it the warm-up scans of its release folder, and compare with the approved answers."""
    verdict, server = start_checked(tag, folder, workers=workers)
    if server:
        server.stop()
    return verdict


def start_checked(tag: str, folder: Path, workers: int = 2) -> tuple[Verdict, Server | None]:
    """Like `check`, but return a server that passed and leave it running; stop a server that failed."""
    started_at = time.monotonic()
    server = start(tag, workers=workers)
    has_passed = False
    try:
        wait_ready(server.url, START_SECONDS, server)
        seconds_to_ready = round(time.monotonic() - started_at, 2)
        verdict = compare(tag, folder, server.url, probe_token(), {"seconds_to_ready": seconds_to_ready})
        has_passed = verdict.outcome is Outcome.PASS
    except Fault as fault:
        verdict = Verdict("release", tag, Outcome.FAIL, (str(fault),))
    finally:
        if not has_passed:
            server.stop()
    return verdict, server if has_passed else None


def probe_token() -> str:
    """A one-day bearer token for the account that sends the warm-up scans. The first call creates the account."""
    if accounts.CHECK_ACCOUNT not in [person.name for person in accounts.people()]:
        accounts.add(accounts.CHECK_ACCOUNT, "engineer")
    return accounts.issue(accounts.CHECK_ACCOUNT, "predict", 1)


def compare(tag: str, folder: Path, url: str, token: str, figures: dict[str, Any] | None = None) -> Verdict:
    """Send a running release its warm-up scans. A task without a warm-up scan makes the verdict inconclusive."""
    manifest = read_manifest(folder)
    reasons, differences = [], {}
    for entry in manifest[WARMUP]:
        content = (folder / WARMUP / entry["file"]).read_bytes()
        answer = ask(url, token, [Upload(entry["file"], content)], entry["task"])
        differences[entry["file"]] = _largest_difference(entry["probabilities"], answer["probabilities"])
        reasons += _disagreements(entry, answer, differences[entry["file"]], manifest["release"])
    missing = sorted(set(manifest["tasks"]) - {entry["task"] for entry in manifest[WARMUP]})
    outcome = Outcome.FAIL if reasons else Outcome.INCONCLUSIVE if missing else Outcome.PASS
    return Verdict(
        gate="release",
        subject=tag,
        outcome=outcome,
        reasons=tuple(reasons)
        + tuple(f"{task} has no warm-up scan, so its answers were not checked" for task in missing),
        figures={**(figures or {}), "warm_ups": len(differences), "largest_difference": differences},
        thresholds={"tolerance": {entry["file"]: entry["tolerance"] for entry in manifest[WARMUP]}},
    )


def free_port() -> int:
    """A loopback port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _disagreements(expected: dict[str, Any], answer: dict[str, Any], difference: float, release: str) -> list[str]:
    file = expected["file"]
    reasons = []
    if answer["release"] != release:
        reasons.append(f"{file}: release {answer['release']} answered")
    if difference > expected["tolerance"]:
        reasons.append(f"{file}: a probability differs by {difference:.4f}, over {expected['tolerance']}")
    elif difference == 0:
        outcome = (answer["answer"], answer["verdict"]["outcome"])
        if outcome != (expected["answer"], expected["outcome"]):
            reasons.append(f"{file}: the answer is {answer['answer']}, but {expected['answer']} was approved")
    return reasons


def _largest_difference(expected: dict[str, float], answered: dict[str, float]) -> float:
    if expected.keys() != answered.keys():
        return 1.0
    return max(abs(expected[name] - answered[name]) for name in expected)


def _last_error(log_file: Path) -> str:
    """The reason that a server which refused to start wrote last."""
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines() if log_file.is_file() else []
    reasons = [line.removeprefix("oncoloop:") for line in lines[-1:] if line.startswith("oncoloop: ")]
    return f" ({reasons[0].strip()})" if reasons else ""


def _problem_detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace") or "no reason given"
