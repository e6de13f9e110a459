"""demo: the whole loop on synthetic studies, made of the public commands alone."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from lineage.errors import Fault
from pipelines import params
from pipelines.cli import Answer
from pipelines.commands import demo_browser
from pipelines.commands.demo_console import Story
from pipelines.servers import services
from pipelines.workspace import workspace as making

MARK = ".oncoloop-demo"
PORT = 7800
SILENT = "0 0 1 1 *"  # a cron line that stays silent
FIRST = (  # task, scanner, patients, labelled slices of each
    ("lung-ct", "alder-ct", 240, 1),
    ("pancreas-ct", "birch-ct", 100, 1),
    ("brain-mr", "birch-mr", 140, 2),
)
WATCHED, SHIFTED_SCANNER, SHIFTED, SLICES = "brain-mr", "shifted-mr", 130, 2  # the task that meets a new scanner
ASKED = 36  # of those patients, how many go through the endpoint before their labels arrive
QUICK = 3  # times fewer patients, with --quick
PEOPLE = (("ines", "engineer"), ("mara", "clinician"), ("otto", "auditor"))
WAITS = "waiting for approval"
CODES = (0, 3, 4)  # of a command whose gates may say anything
REASON = "a demo on synthetic studies: the verdict names what is missing, and it is shown as approved by a person"


def demo(args: argparse.Namespace) -> Answer:
    """Tell the story in a workspace of its own, which stays for a look afterwards.

    Exit code 0: every gate said what was planted. 3: one said no. 4: one said inconclusive. 1: something broke.
    """
    workspace: Path = args.at.absolute()
    settings = adapted(making.shipped(params.NAME).read_text(encoding="utf-8"), args.set)
    began = time.monotonic()
    _fresh(workspace)
    story = Story(workspace, steps=9)
    with story.progress:
        house = None
        try:
            house = _set_up(story, settings)
            token = _people(story)
            _first_batches(story, args.seed, args.quick)
            _first_models(story)
            first = _first_answer(story, token)
            asked = _new_scanner(story, token, args.seed, args.quick)
            _labels(story, args.seed, args.sham, args.quick)
            decision = _retrained(story, asked, args.sham)
            _records(story, first)
        finally:
            if house is not None:
                services.end(house.pid, 30.0)
    seconds = time.monotonic() - began
    story.table(f"what happened, in {seconds:.0f} s")
    result = {
        "workspace": str(workspace),
        "seconds": round(seconds, 1),
        "prediction": first["id"] if first else None,
        "sham": args.sham,
        "gates": story.gates,
        **decision,
    }
    return Answer(result, _to_open(workspace, args.at), exit_code(story.gates, decision, args.sham))


def exit_code(gates: dict[str, str], decision: dict[str, Any], sham: bool) -> int:
    """0 where the gates said what the story planted: yes to new knowledge, no to permuted labels."""
    told = [outcome for subject, outcome in gates.items() if subject != decision["subject"]]
    if sham:
        told.append("fail" if decision["decision"] == "promoted" else "pass")
    else:
        told.append(decision["challenger"])
    return 3 if "fail" in told else 4 if "inconclusive" in told else 0


def _fresh(workspace: Path) -> None:
    """An empty folder; an earlier demo's is removed, anybody else's never."""
    if workspace.exists() and any(workspace.iterdir()):
        if not (workspace / MARK).exists():
            raise Fault(f"{workspace} is not empty and not a demo's workspace; choose another folder with --at")
        from pipelines.servers.services import clear_leftovers

        os.environ["ONCOLOOP_HOME"] = str(workspace / "var")
        clear_leftovers()
        shutil.rmtree(workspace)
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / MARK).touch()
    for name in ("ONCOLOOP_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)


def _set_up(story: Story, settings: str) -> Any:
    with story.step("1  a workspace, and its servers") as say:
        story.command("init", str(story.workspace))
        (story.workspace / params.NAME).write_text(settings, encoding="utf-8")
        port = next(p for p in range(PORT, PORT + 1000, 100) if not any(services.taken(p + n) for n in (0, 1, 10)))
        house = story.background("up", "--only", "desk,prefect,runner,release", "--port", str(port))
        say(f"{story.workspace}, servers on ports from {port}")
    return house


def adapted(text: str, changes: list[str]) -> str:
    """The demo's params.yaml: cron lines that stay silent, approval automatic, and what was asked for (KEY=VALUE).

    Fault for a change that names no key of it.
    """
    for line in yaml.safe_load(text)["schedule"].values():
        text = text.replace(f'"{line}"', f'"{SILENT}"')
    for change in ["promotion.approval=automatic", *changes]:
        name, _, value = change.partition("=")
        section, _, key = name.partition(".")
        found = re.search(rf"(?ms)^{re.escape(section)}:\n(?:[ #][^\n]*\n)*?  {re.escape(key)}: (\S+)", text)
        if found is None or not value:
            raise Fault(f"--set {change}: give SECTION.KEY=VALUE with a section and a key of params.yaml")
        text = text[: found.start(1)] + value + text[found.end(1) :]
    return text


def _people(story: Story) -> str:
    for name, role in PEOPLE:
        story.command("user", "add", name, "--role", role)
        if role == "engineer":  # who signs what is decided from here on
            story.command("signin", story.command("login", name)["link"])
    return str(story.command("login", "mara", "--token", "--days", "1")["token"])


def _first_batches(story: Story, seed: int, quick: bool) -> None:
    from data.phantom import batch as phantom_batch
    from data.phantom import samples
    from data.phantom import scanner as phantom_scanner

    tasks = params.load(story.workspace).tasks
    with story.step("2  first labelled batches, and a bad one") as say:
        for number, (name, scanner, patients, slices) in enumerate(FIRST):
            folder, count = story.workspace / "inbox" / f"{name}-{scanner}", patients // (QUICK if quick else 1)
            made = phantom_scanner.SCANNERS[scanner]
            phantom_batch.write_batch(folder, tasks[name], count, made, 10 * seed + number, slices, masks=True)
        samples.bad_batch(story.workspace / "inbox" / "lung-ct-bad", tasks["lung-ct"], seed)
        samples.try_samples(story.workspace / "try", [tasks[name] for name, *_ in FIRST])
        for result in story.command("ingest", codes=CODES)["batches"]:
            verdict = result["verdict"]
            state = "admitted" if verdict["outcome"] == "pass" else "quarantined"
            say(f"{result['batch']}: {state}: {verdict['reasons'][0]}")


def _first_models(story: Story) -> None:
    with story.step("3  first models: fitted, judged, released") as say:
        result = story.command("retrain", "--reason", "first models", codes=CODES)
        for entry in result["models"]:
            _judged(story, say, entry)
        if result["release"]:
            say(f"release {result['release']} holds what the gate let through")


def _judged(story: Story, say: Any, entry: dict[str, Any], sham: bool = False) -> str:
    """Say what the training gate said of a version; a person approves it where the gate left it open."""
    verdict, name = entry["verdict"], f"{entry['task']}/{entry['version']}"
    story.gates[name] = verdict["outcome"]
    say(f"{name}: {verdict['outcome']}, {entry['decision']}: {verdict['reasons'][0]}")
    if verdict["outcome"] == "fail":
        missing = "; ".join(verdict["reasons"])
        say(f"{name} is turned down, and no person can let it through; what is missing: {missing}")
    if entry["decision"] != WAITS or sham:
        return str(entry["decision"])
    demo_browser.approve(story, entry["task"], entry["version"], REASON)
    say(f"{name} is approved by ines (engineer), whose decision and reason are in the ledger")
    return "approved by a person"


def _first_answer(story: Story, token: str) -> dict[str, Any] | None:
    with story.step("4  the release answers over HTTP") as say:
        champions = {name: roles.get("champion") for name, roles in story.command("status")["tasks"].items()}
        without = [name for name, *_ in FIRST if not champions[name]]
        answers = [name for name, *_ in FIRST if champions[name]]
        if not answers:
            say(f"nothing answers: no model of {', '.join(without)} was let through")
            return None
        live = story.wait("a served release", lambda: _live(story, answers), 300)
        with demo_browser.client(demo_browser.address(story), token) as desk:
            answer = demo_browser.ask(desk, [next((story.workspace / "try").glob(f"{answers[0]}-clear*"))], answers[0])
            score = f"score {answer['score']:.3f}, threshold {answer['threshold']:.3f}"
            say(f"release {live}: {answer['title']}: {answer['answer'] or 'no answer'} ({score})")
            path = demo_browser.report(story, desk, answer["id"])
        say(f"a heat map and a report came back: {story.workspace.name}/{path.name}")
        if without:
            say(f"without a model, so that nothing answers for it: {', '.join(without)}")
    return answer


def _live(story: Story, tasks: list[str]) -> str | None:
    """The release that answers, once it does for these tasks."""
    live = story.command("status")["live"]
    return str(live["release"]) if live and set(tasks) <= set(live["tasks"]) else None


def _new_scanner(story: Story, token: str, seed: int, quick: bool) -> bool:
    """Whether the watch asked for a retraining."""
    from data.phantom import batch as phantom_batch
    from data.phantom import scanner as phantom_scanner

    task, some = params.load(story.workspace).tasks[WATCHED], QUICK if quick else 1
    with story.step("5  scans from another scanner go through the endpoint; the watch reads the journal") as say:
        batch, scanner = story.workspace / "later" / f"{WATCHED}-new-scanner", phantom_scanner.SCANNERS[SHIFTED_SCANNER]
        phantom_batch.write_batch(batch, task, SHIFTED // some, scanner, 10 * seed + 9, SLICES)
        if not story.command("status")["tasks"][WATCHED].get("champion"):
            say(f"{WATCHED} has no model, so nothing answers for these scans, and there is nothing to watch")
            return False
        scans = sorted(path for path in batch.iterdir() if path.name != "metadata.csv")[: ASKED // some]
        with demo_browser.client(demo_browser.address(story), token) as desk:
            answers = [demo_browser.ask(desk, [scan], WATCHED) for scan in scans]
        [result] = story.command("watch", "--task", WATCHED, codes=CODES)
        say(f"watch: {result['verdict']['outcome']}: {'; '.join(result['verdict']['reasons'][:2])}")
        withheld = sum(answer["verdict"]["outcome"] != "pass" for answer in answers)
        say(f"{len(answers)} answers before, {withheld} of them withheld by the serving gate")
        story.gates[f"watch of {WATCHED}"] = "pass" if result["asked"] else "inconclusive"
        if not result["asked"]:
            say("the watch asks for no retraining; an engineer will, when the labels are there")
    return bool(result["asked"])


def _labels(story: Story, seed: int, sham: bool, quick: bool) -> None:
    from data.phantom import batch as phantom_batch
    from data.phantom import scanner as phantom_scanner

    with story.step("6  their labels arrive as a batch" + (", permuted" if sham else "")) as say:
        name = f"{WATCHED}-new-scanner"
        source, target = story.workspace / "later" / name, story.workspace / "inbox" / name
        shutil.move(source, target)
        if sham:
            task, scanner = params.load(story.workspace).tasks[WATCHED], phantom_scanner.SCANNERS[SHIFTED_SCANNER]
            count = SHIFTED // (QUICK if quick else 1)
            phantom_batch.write_batch(target, task, count, scanner, 10 * seed + 9, SLICES, sham=True)
        for result in story.command("ingest", codes=CODES)["batches"]:
            say(f"{result['batch']}: {result['verdict']['outcome']}: {result['verdict']['reasons'][0]}")


def _retrained(story: Story, asked: bool, sham: bool) -> dict[str, Any]:
    how = "the watch's event starts the retraining" if asked else "an engineer starts the retraining"
    with story.step(f"7  {how}; the challenger meets the champion") as say:
        if not asked:
            story.command("retrain", "--task", WATCHED, "--reason", "labels of a new scanner", codes=CODES)
        approval = params.load(story.workspace).promotion.approval

        def challenger() -> Any:
            made = [entry for entry in story.command("status")["decisions"] if entry["task"] == WATCHED]
            found = next((entry for entry in made if entry["version"] != "1"), None)
            acted = found and (found["decision"], found["verdict"]["outcome"], approval) != (WAITS, "pass", "automatic")
            return found if acted else None

        entry: dict[str, Any] = story.wait("the retraining", challenger, 600, every=5.0)
        verdict, subject = entry["verdict"], f"{WATCHED}/{entry['version']}"
        decision = _judged(story, say, entry, sham)
        for reason in verdict["reasons"][1:] if verdict["outcome"] != "fail" else ():
            say(reason)
    with story.step("8  what passed is released and served") as say:
        champion = story.command("status")["tasks"][WATCHED].get("champion")
        if champion == entry["version"]:
            release = story.wait("the new release", lambda: _served(story, entry["version"]), 300)
            say(f"release {release} answers with {subject}")
        else:
            stays = f"the champion stays: {WATCHED}/{champion}" if champion else f"{WATCHED} stays without a model"
            say(f"the gate said {verdict['outcome']}, so nothing is released; {stays}")
    return {"subject": subject, "challenger": verdict["outcome"], "decision": decision, "reasons": verdict["reasons"]}


def _served(story: Story, version: str) -> str | None:
    live = story.command("status")["live"]
    return str(live["release"]) if live and live["tasks"].get(WATCHED) == version else None


def _records(story: Story, first: dict[str, Any] | None) -> None:
    with story.step("9  the chain behind the first prediction; the ledger") as say:
        if first is None:
            say("there is no prediction to trace")
        else:
            chain = story.command("trace", first["id"])
            say(" -> ".join(dict.fromkeys(link["step"] for link in chain["links"])))
        say(f"ledger: {story.command('verify', codes=CODES)['outcome']}")


def _to_open(workspace: Path, shown: Path) -> str:
    lines = [
        f"the workspace stays in {shown}; look at",
        f"  oncoloop up -C '{shown}' --links     (or `make up`): pages, with a one-time link for each person",
        f"  {shown}/try/               sample studies to drop on the clinician's page",
    ]
    if (workspace / "report.html").exists():
        lines.append(f"  {shown}/report.html        the first case's report")
    pages = [
        *sorted((workspace / "var").glob("gx/**/index.html"))[:1],
        *sorted((workspace / "var").glob("evidently/**/*.html"))[-1:],
    ]
    lines += [f"  {page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page}" for page in pages]
    sys.stderr.flush()
    return "\n".join(lines)
