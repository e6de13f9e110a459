"""Screenshots of the desk's pages, out of a finished demo.

    make demo
    .venv/bin/python docs/site_generator/screenshots.py [WORKSPACE]

Starts `oncoloop up` in the workspace (default: var/demo), signs in as each person, and writes PNG files to
build/screenshots. `make docs` puts them into the site. Nothing of this is committed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "build" / "screenshots"
CHROMIUM = "/usr/bin/chromium"
SIZE = {"width": 1280, "height": 860}
LINK = re.compile(r"(\w+) \((\w+)\), once: (\S+)")
PORT = 7960
START_SECONDS, ANSWER_MS = 180.0, 60_000
PAGES = {  # what each role's screenshots show: name of the file, address
    "engineer": (
        ("engineer-models", "/models"),
        ("engineer-watch", "/watch"),
        ("engineer-decisions", "/decisions"),
        ("engineer-sites", "/sites"),
    ),
    "auditor": (("auditor-ledger", "/ledger"), ("auditor-people", "/people")),
    "clinician": (("clinician-new-scan", "/"), ("clinician-cases", "/cases")),
}


@contextlib.contextmanager
def running(workspace: Path) -> Iterator[dict[str, str]]:
    """`oncoloop up` in a workspace; gives the one-time link of each role."""
    program = str(Path(sys.executable).parent / "oncoloop")
    command = [program, "up", "-C", str(workspace), "--links", "--port", str(PORT)]
    TARGET.mkdir(parents=True, exist_ok=True)
    log = TARGET / "up.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream, stdout=stream, env=_environment(), start_new_session=True)
    try:
        yield _links(process, log)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        log.unlink()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("ONCOLOOP_")}


def _links(process: subprocess.Popen[bytes], log: Path) -> dict[str, str]:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        links = {role: link for _, role, link in LINK.findall(log.read_text(encoding="utf-8"))}
        if links.keys() >= PAGES.keys():
            return links
        time.sleep(0.5)
    raise SystemExit(f"the workspace did not start: {log.read_text(encoding='utf-8')[-500:]}")


def sign_in(browser: Any, link: str) -> Any:
    """A page of a person who has used a one-time link."""
    page = browser.new_context(viewport=SIZE).new_page()
    page.goto(link)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_load_state("networkidle")
    return page


def shoot(page: Any, name: str) -> None:
    """Write what the page shows now."""
    page.screenshot(path=str(TARGET / f"{name}.png"))
    sys.stderr.write(f"build/screenshots/{name}.png\n")


def answer(page: Any, workspace: Path, base: str) -> str:
    """Send a sample scan as the clinician; the number of the case."""
    page.goto(base + "/")
    scan = next((workspace / "try").glob("lung-ct-clear*"))
    page.set_input_files("#files", str(scan))
    page.get_by_role("button", name="Read the scan").click()
    page.wait_for_selector("#card .answer", timeout=ANSWER_MS)
    page.wait_for_timeout(500)
    page.locator("#result").screenshot(path=str(TARGET / "clinician-answer.png"))
    return str(page.get_by_role("link", name="Open the case").get_attribute("href")).rpartition("/")[2]


def main() -> None:
    """Take every screenshot."""
    from playwright.sync_api import sync_playwright

    workspace = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "var" / "demo").absolute()
    with running(workspace) as links, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        base = links["clinician"].partition("/enter")[0]
        people = {role: sign_in(browser, link) for role, link in links.items()}
        case = answer(people["clinician"], workspace, base)
        pages = [(role, name, path) for role, listed in PAGES.items() for name, path in listed]
        pages += [("clinician", "clinician-report", f"/cases/{case}/report")]
        pages += [("auditor", "auditor-trace", f"/trace?id={case}")]
        for role, name, path in pages:
            people[role].goto(base + path)
            people[role].wait_for_load_state("networkidle")
            shoot(people[role], name)
        browser.close()


if __name__ == "__main__":
    main()
