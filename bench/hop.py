"""What the front adds to a request: the desk before a server that answers at once, beside that server asked directly.

    python bench/hop.py                 one user and 16, 0.5 MB and 30 kB, about 30 seconds
    python bench/hop.py --runs 1000     more calm

The server behind reads the upload and gives an answer of the usual size, so the difference is the hop alone. Both ask
with a program's bearer token; `page` comes with the cookie and the token of a signed-in person instead.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a bench reads the rooms beside it

import httpx
import psutil

from bench import load
from lineage import accounts, keys, paths
from lineage.record import database, ledger

ROOT = Path(__file__).resolve().parent.parent
BEHIND = """
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
def server(command: list[str], url: str, folder: Path) -> Iterator[psutil.Process]:
    """A server process that is up."""
    process = psutil.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until:
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
    """Cookie and token of a person who has signed in at the desk."""
    with httpx.Client(base_url=desk, trust_env=False, follow_redirects=True) as browser:
        browser.post("/enter", data={"token": accounts.invite("bench")})
        found = re.search(r'name="csrf" (?:value|content)="([0-9a-f]{64})"', browser.get("/cases").text)
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    return {"Cookie": cookies, "X-CSRF-Token": found.group(1) if found else ""}


def asked(url: str, request: bytes, users: int, runs: int) -> load.Load:
    """After a short run that warms up."""
    load.ask(url, request, users, 0, 10)
    return load.ask(url, request, users, 0, runs)


def measure(desk: str, behind: str, runs: int, token: str) -> dict[str, object]:
    """Milliseconds at p50 direct and through the desk, and the difference; the same for a signed-in person."""
    found: dict[str, object] = {}
    session = page_session(desk)
    for label, size in SIZES.items():
        for users in (1, 16):
            each = max(20, runs // users)
            direct = load.form([("a.dcm", b"\7" * size)], "lung-ct", "/predict", {"Authorization": f"Bearer {token}"})
            through = direct.replace(b"POST /predict", b"POST /api/predict", 1)
            person = "\r\n".join(f"{name}: {value}" for name, value in session.items()).encode()
            page = through.replace(f"Authorization: Bearer {token}".encode(), person, 1)
            seen = {
                "direct": asked(behind, direct, users, each),
                "desk": asked(desk, through, users, each),
                "page": asked(desk, page, users, each),
            }
            for name, one in seen.items():
                if set(one.statuses) != {200}:
                    raise SystemExit(f"{name}: {one.statuses}")
            p50 = {name: round(one.percentile(0.5) * 1000, 2) for name, one in seen.items()}
            found[f"{label}, {users} users"] = p50 | {
                "hop": round(p50["desk"] - p50["direct"], 2),
                "per_second": round(seen["desk"].per_second),
            }
    return found


def main() -> None:
    """Start both, ask, print."""
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
        Path(scratch, "behind.py").write_text(BEHIND)
        port, base = free_port(), free_port()
        behind, desk = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{base}"
        ledger.append("release.activated", "bench", {"url": behind, "port": port})
        plain = [sys.executable, "-m", "uvicorn", "behind:app", "--port", str(port), "--log-level", "warning"]
        command = supervisor.lay_out(base)["desk"].command
        with server(plain, behind, Path(scratch)), server(command, f"{desk}/healthz", Path(scratch)) as process:
            found = measure(desk, behind, options.runs, accounts.issue("bench", "predict", 1))
            found["desk MB"] = process.memory_info().rss // 2**20
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
