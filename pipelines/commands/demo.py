"""demo: the whole loop on synthetic studies, made of the public commands alone."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from lineage.fault import Fault
from pipelines import params, services
from pipelines.cli import Answer
from pipelines.story import Story

MARK = ".oncoloop-demo"
PORT = 7800
CHANGED: dict[str, Any] = {"approval": "automatic", "schedule": "0 0 1 1 *"}
FIRST = (  # task, scanner, patients, labelled slices of each
    ("lung-ct", "alder-ct", 120, 1),
    ("pancreas-ct", "birch-ct", 70, 1),
    ("brain-mr", "birch-mr", 72, 2),
)
WATCHED, SHIFTED_SCANNER, SHIFTED, SLICES = "brain-mr", "shifted-mr", 60, 2  # the task that meets a new scanner
ASKED = 36  # of those patients, how many go through the endpoint before their labels arrive
PEOPLE = (("ines", "engineer"), ("mara", "clinician"), ("otto", "auditor"))


def demo(args: argparse.Namespace) -> Answer:
    """Tell the story in a workspace of its own, which stays for a look afterwards."""
    workspace: Path = args.at.absolute()
    began = time.monotonic()
    _fresh(workspace)
    story = Story(workspace, steps=9)
    with story.progress:
        house = None
        try:
            house = _set_up(story)
            token = _people(story)
            _first_batches(story, args.seed)
            _first_models(story)
            first = _first_answer(story, token)
            _new_scanner(story, token, args.seed)
            _labels(story, args.seed, args.sham)
            decision = _retrained(story)
            _records(story, first)
        finally:
            if house is not None:
                services.end(house.pid, 30.0)
    seconds = time.monotonic() - began
    story.table(f"what happened, in {seconds:.0f} s")
    result = {
        "workspace": str(workspace),
        "seconds": round(seconds, 1),
        "prediction": first["id"],
        "sham": args.sham,
        **decision,
    }
    return Answer(result, _to_open(workspace, args.at), _code(decision, args.sham))


def _code(decision: dict[str, Any], sham: bool) -> int:
    """0 where the gate said what the story planted: yes to new knowledge, no to permuted labels."""
    if (decision["decision"] == "promoted") is not sham:
        return 0
    return {"fail": 3, "inconclusive": 4}.get(str(decision["challenger"]), 1)


def _fresh(workspace: Path) -> None:
    """An empty folder; an earlier demo's is removed, anybody else's never."""
    if workspace.exists() and any(workspace.iterdir()):
        if not (workspace / MARK).exists():
            raise Fault(f"{workspace} is not empty and not a demo's workspace; choose another folder with --at")
        from pipelines.services import clear_leftovers

        os.environ["ONCOLOOP_HOME"] = str(workspace / "var")
        clear_leftovers()
        shutil.rmtree(workspace)
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / MARK).touch()
    for name in ("ONCOLOOP_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)


def _set_up(story: Story) -> Any:
    with story.step("1  a workspace, and its servers") as say:
        story.command("init", str(story.workspace))
        _adapt(story.workspace)
        port = next(p for p in range(PORT, PORT + 1000, 100) if not any(services.taken(p + n) for n in (0, 1, 10)))
        house = story.background("up", "--only", "desk,prefect,runner,release", "--port", str(port))
        say(f"{story.workspace}, servers on ports from {port}")
    return house


def _adapt(workspace: Path) -> None:
    """The demo's params.yaml: other sizes, approval automatic, cron lines that stay silent; no threshold changes."""
    path = workspace / params.NAME
    text = path.read_text(encoding="utf-8").replace("approval: required ", f"approval: {CHANGED['approval']}")
    record = yaml.safe_load(text)
    for line in record["schedule"].values():
        text = text.replace(f'"{line}"', f'"{CHANGED["schedule"]}"')
    path.write_text(text, encoding="utf-8")


def _people(story: Story) -> str:
    for name, role in PEOPLE:
        story.command("user", "add", name, "--role", role)
    return str(story.command("login", "mara", "--token", "--days", "1")["token"])


def _first_batches(story: Story, seed: int) -> None:
    from data import phantom

    tasks = params.load(story.workspace).tasks
    with story.step("2  first labelled batches, and a bad one") as say:
        for number, (name, scanner, patients, slices) in enumerate(FIRST):
            folder = story.workspace / "inbox" / f"{name}-{scanner}"
            made = phantom.SCANNERS[scanner]
            phantom.write_batch(folder, tasks[name], patients, made, 10 * seed + number, slices, masks=True)
        phantom.bad_batch(story.workspace / "inbox" / "lung-ct-bad", tasks["lung-ct"], seed)
        phantom.try_samples(story.workspace / "try", [tasks[name] for name, *_ in FIRST])
        for result in story.command("ingest", codes=(3,))["batches"]:
            verdict = result["verdict"]
            state = "admitted" if verdict["outcome"] == "pass" else "quarantined"
            say(f"{result['batch']}: {state}: {verdict['reasons'][0]}")


def _first_models(story: Story) -> None:
    with story.step("3  first models: fitted, judged, registered, released") as say:
        result = story.command("retrain", "--reason", "first models", codes=(0, 3, 4))
        for entry in result["models"]:
            verdict = entry["verdict"]
            name = f"{entry['task']}/{entry['version']}"
            say(f"{name}: {verdict['outcome']}, {entry['decision']}: {verdict['reasons'][0]}")
        say(f"release {result['release']}")


def front(story: Story) -> str:
    """Where the web front answers, once it does."""
    path = story.workspace / "var" / "run" / "desk.json"
    return str(story.wait("the web front", lambda: path.exists() and yaml.safe_load(path.read_text())["url"], 60))


def ask_files(desk: httpx.Client, files: list[Path], task: str = "") -> dict[str, Any]:
    """One case over HTTP through the web front."""
    parts = [("files", (path.name, path.read_bytes(), "application/octet-stream")) for path in files]
    response = desk.post("/api/predict", files=parts, data={"task": task})
    if response.status_code >= 400:
        raise Fault(f"the endpoint answered {response.status_code}: {response.text[:300]}")
    answer: dict[str, Any] = response.json()
    return answer


def client(url: str, token: str) -> httpx.Client:
    """A program's connection to the web front."""
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60.0, follow_redirects=True)


def _first_answer(story: Story, token: str) -> dict[str, Any]:
    with story.step("4  the release answers over HTTP") as say, client(front(story), token) as desk:
        live = story.wait("a served release", lambda: story.command("status")["live"], 120)
        answer = ask_files(desk, [next((story.workspace / "try").glob("lung-ct-clear*"))])
        score = f"score {answer['score']:.3f}, threshold {answer['threshold']:.3f}"
        say(f"release {live['release']}: {answer['title']}: {answer['answer']} ({score})")
        desk.get(story.command("login", "mara")["link"]).raise_for_status()
        report = desk.get(f"/cases/{answer['id']}/report", params={"file": "1"}).raise_for_status()
        (story.workspace / "report.html").write_text(report.text, encoding="utf-8")
        say(f"a heat map and a report came back: {story.workspace.name}/report.html")
    return answer


def _new_scanner(story: Story, token: str, seed: int) -> None:
    from data import phantom

    task = params.load(story.workspace).tasks[WATCHED]
    with story.step("5  scans from another scanner go through the endpoint; the watch reads the journal") as say:
        batch = story.workspace / "later" / f"{WATCHED}-new-scanner"
        phantom.write_batch(batch, task, SHIFTED, phantom.SCANNERS[SHIFTED_SCANNER], 10 * seed + 9, SLICES)
        scans = sorted(path for path in batch.iterdir() if path.name != "metadata.csv")[:ASKED]
        with client(front(story), token) as desk:
            answers = [ask_files(desk, [scan], WATCHED) for scan in scans]
        for result in story.command("watch", "--task", WATCHED, codes=(0, 3, 4)):
            say(f"watch: {result['verdict']['outcome']}: {'; '.join(result['verdict']['reasons'][:2])}")
            if not result["asked"]:
                raise Fault("the watch did not ask for retraining; its page says why")
        withheld = sum(answer["verdict"]["outcome"] != "pass" for answer in answers)
        say(f"{len(answers)} answers before, {withheld} of them withheld by the serving gate")


def _labels(story: Story, seed: int, sham: bool) -> None:
    from data import phantom

    with story.step("6  their labels arrive as a batch" + (", permuted" if sham else "")) as say:
        name = f"{WATCHED}-new-scanner"
        source, target = story.workspace / "later" / name, story.workspace / "inbox" / name
        shutil.move(source, target)
        if sham:
            task, scanner = params.load(story.workspace).tasks[WATCHED], phantom.SCANNERS[SHIFTED_SCANNER]
            phantom.write_batch(target, task, SHIFTED, scanner, 10 * seed + 9, SLICES, sham=True)
        for result in story.command("ingest")["batches"]:
            say(f"{result['batch']}: {result['verdict']['outcome']}: {result['verdict']['reasons'][0]}")


def _retrained(story: Story) -> dict[str, Any]:
    with story.step("7  the watch's event starts the retraining; the challenger meets the champion") as say:

        def judged() -> Any:
            status = story.command("status")
            return next(
                (entry for entry in status["decisions"] if entry["task"] == WATCHED and entry["version"] != "1"), None
            )

        decision: dict[str, Any] = story.wait("the retraining by event", judged, 240, every=5.0)
        verdict = decision["verdict"]
        say(f"{WATCHED}/{decision['version']}: {verdict['outcome']}, {decision['decision']}")
        for reason in verdict["reasons"]:
            say(reason)
    with story.step("8  what passed is released and served") as say:
        if decision["decision"] == "promoted":
            release = story.wait("the new release", lambda: _served(story, decision["version"]), 120)
            say(f"release {release} answers with {WATCHED}/{decision['version']}")
        else:
            champion = story.command("status")["tasks"][WATCHED]["champion"]
            say(f"the gate said {verdict['outcome']}, so nothing is released; the champion stays: {WATCHED}/{champion}")
    return {"challenger": verdict["outcome"], "decision": decision["decision"], "reasons": verdict["reasons"]}


def _served(story: Story, version: str) -> str | None:
    status = story.command("status")
    live = status["live"]
    return str(live["release"]) if live and live["tasks"].get(WATCHED) == version else None


def _records(story: Story, first: dict[str, Any]) -> None:
    with story.step("9  the chain behind the first prediction; the ledger") as say:
        chain = story.command("trace", first["id"])
        say(" -> ".join(dict.fromkeys(link["step"] for link in chain["links"])))
        say(f"ledger: {story.command('verify')['outcome']}")


def _to_open(workspace: Path, shown: Path) -> str:
    lines = [
        f"the workspace stays in {shown}; look at",
        f"  oncoloop up -C {shown}     (or `make up`): pages, with a one-time link for each of the three people",
        f"  {shown}/try/               sample studies to drop on the clinician's page",
        f"  {shown}/report.html        the first case's report",
    ]
    pages = (
        sorted((workspace / "var").glob("gx/**/index.html"))[:1]
        + sorted((workspace / "var").glob("evidently/**/*.html"))[-1:]
    )
    lines += [f"  {page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page}" for page in pages]
    sys.stderr.flush()
    return "\n".join(lines)
