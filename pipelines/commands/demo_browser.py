"""The demo's requests to the web front: send scans, read a report, sign an approval."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx

from lineage.errors import Fault
from pipelines.commands.demo_console import Story


def address(story: Story) -> str:
    """The address of the web front; waits until it answers."""
    from lineage import json_files

    path = story.workspace / "var" / "run" / "desk.json"
    return str(story.wait("the web front", lambda: path.exists() and json_files.read_json(path)["url"], 120))


def client(url: str, token: str = "") -> httpx.Client:
    """An HTTP client for the web front: with a bearer token, or like a browser that signs in with a link."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=url, headers=headers, timeout=120.0, follow_redirects=True)


def ask(desk: httpx.Client, files: list[Path], task: str = "") -> dict[str, Any]:
    """Send one case and return the answer. Fault with the endpoint's message if it gives no answer."""
    parts = [("files", (path.name, path.read_bytes(), "application/octet-stream")) for path in files]
    response = desk.post("/api/predict", files=parts, data={"task": task})
    if response.status_code >= 400:
        raise Fault(f"the endpoint answered {response.status_code}: {response.text[:300]}")
    answer: dict[str, Any] = response.json()
    return answer


def report(story: Story, desk: httpx.Client, prediction: str) -> Path:
    """Save the printable report of a case in the workspace, as its clinician gets it; return the file."""
    _sign_in(story, desk, "mara")
    text = desk.get(f"/cases/{prediction}/report", params={"file": "1"}).raise_for_status().text
    path = story.workspace / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def _sign_in(story: Story, desk: httpx.Client, name: str) -> None:
    """Sign in like a person: open a one-time link and press its button."""
    token = story.command("login", name)["link"].partition("token=")[2]
    desk.post("/enter", data={"token": token}).raise_for_status()


def approve(story: Story, task: str, version: str, reason: str) -> None:
    """Approve a version on the decisions page as an engineer; return when it is the champion."""
    with client(address(story)) as desk:
        _sign_in(story, desk, "ines")
        token = re.search(r'name="csrf" value="([^"]+)"', desk.get("/decisions").raise_for_status().text)
        if token is None:
            raise Fault(f"the decisions page shows no waiting version, but {task}/{version} waits for approval")
        form = {"csrf": token[1], "task": task, "version": version, "decision": "approve", "reason": reason}
        desk.post("/decisions", data=form).raise_for_status()

    def promoted() -> bool:
        return bool(story.command("status")["tasks"][task].get("champion") == version)

    story.wait(f"the approval of {task}/{version} to take effect", promoted, 300)
