"""Time that the desk's proxy adds to a request, measured with a server that answers at once.

    python bench/serving/proxy_overhead.py                 one user and 16, 0.5 MB and 30 kB, about 30 seconds
    python bench/serving/proxy_overhead.py --runs 1000     less noise

The server reads the upload and returns an answer of the usual size, so the difference to a direct request is the proxy
alone. Requests carry a program's bearer token; `page` requests carry the cookie and CSRF token of a signed-in person.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages are beside bench/

import httpx
import psutil

from bench.serving import load_generator
from lineage import accounts, keys, paths
from lineage.record import database, ledger
from lineage.record.events import EventKind

ROOT = Path(__file__).resolve().parents[2]
INSTANT_SERVER = """
ANSWER = b'{"id": "' + b"0" * 5000 + b'"}'

async def app(scope, receive, send):
    more = scope["type"] == "http"
    while more:
        more = (await receive()).get("more_body", False)
    if scope["type"] == "http":
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})
"""
SIZES = {"525 kB": 525_000, "30 kB": 30_000}


@contextmanager
def running_server(command: list[str], url: str, folder: Path) -> Iterator[psutil.Process]:
    """Run a server; yields its process when it answers."""
    process = psutil.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(url, trust_env=False)
            break
        except httpx.TransportError:
            time.sleep(0.05)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def page_session(desk: str) -> dict[str, str]:
    """Headers with the cookie and CSRF token of a person who has signed in at the desk."""
    with httpx.Client(base_url=desk, trust_env=False, follow_redirects=True) as browser:
        browser.post("/enter", data={"token": accounts.invite("bench")})
        token_match = re.search(r'name="csrf" (?:value|content)="([0-9a-f]{64})"', browser.get("/cases").text)
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    return {"Cookie": cookies, "X-CSRF-Token": token_match.group(1) if token_match else ""}


def ask_after_warm_up(url: str, request: bytes, users: int, runs: int) -> load_generator.Load:
    """Measure the load after a short warm-up."""
    load_generator.ask(url, request, users, 0, 10)
    return load_generator.ask(url, request, users, 0, runs)


def measure(desk: str, server: str, runs: int, token: str) -> dict[str, object]:
    """Median milliseconds direct, through the desk, and through the desk as a signed-in person; and the difference."""
    figures: dict[str, object] = {}
    session = page_session(desk)
    for label, size in SIZES.items():
        for users in (1, 16):
            requests = max(20, runs // users)
            direct_request = load_generator.form(
                [("a.dcm", b"\7" * size)], "lung-ct", "/predict", {"Authorization": f"Bearer {token}"}
            )
            desk_request = direct_request.replace(b"POST /predict", b"POST /api/predict", 1)
            session_headers = "\r\n".join(f"{name}: {value}" for name, value in session.items()).encode()
            page_request = desk_request.replace(f"Authorization: Bearer {token}".encode(), session_headers, 1)
            loads = {
                "direct": ask_after_warm_up(server, direct_request, users, requests),
                "desk": ask_after_warm_up(desk, desk_request, users, requests),
                "page": ask_after_warm_up(desk, page_request, users, requests),
            }
            for name, result in loads.items():
                if set(result.statuses) != {200}:
                    raise SystemExit(f"{name}: {result.statuses}")
            p50 = {name: round(result.percentile(0.5) * 1000, 2) for name, result in loads.items()}
            figures[f"{label}, {users} users"] = p50 | {
                "hop": round(p50["desk"] - p50["direct"], 2),
                "per_second": round(loads["desk"].per_second),
            }
    return figures


def main() -> None:
    """Start both servers, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"ONCOLOOP_HOME": f"{scratch}/var", "PYTHONPATH": str(ROOT)}
        os.environ |= paths.environment()
        from pipelines.servers import supervisor
        from serving.bundle.bento_server import free_port

        keys.create()
        database.migrate()
        accounts.add("bench", "clinician")
        Path(scratch, "instant_server.py").write_text(INSTANT_SERVER)
        port, base = free_port(), free_port()
        server, desk = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{base}"
        ledger.append(EventKind.RELEASE_ACTIVATED, "bench", {"url": server, "port": port})
        server_command = [
            sys.executable,
            "-m",
            "uvicorn",
            "instant_server:app",
            "--port",
            str(port),
            "--log-level",
            "warning",
        ]
        command = supervisor.lay_out(base)["desk"].command
        with (
            running_server(server_command, server, Path(scratch)),
            running_server(command, f"{desk}/healthz", Path(scratch)) as process,
        ):
            figures = measure(desk, server, options.runs, accounts.issue("bench", "predict", 1))
            figures["desk MB"] = process.memory_info().rss // 2**20
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
