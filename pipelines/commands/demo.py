"""demo: the whole loop on synthetic studies, with public commands only."""

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

MARK_FILE = ".oncoloop-demo"
PORT = 7800
NEVER = "0 0 1 1 *"  # a cron line that does not fire during a demo (once a year)
FIRST_BATCHES = (  # task, scanner, patients, labelled slices per patient
    ("lung-ct", "alder-ct", 240, 1),
    ("pancreas-ct", "birch-ct", 100, 1),
    ("brain-mr", "birch-mr", 140, 2),
)
WATCHED_TASK, SHIFTED_SCANNER, SHIFTED_PATIENTS, SHIFTED_SLICES = (
    "brain-mr",
    "shifted-mr",
    130,
    2,
)  # the task with a new scanner
OWN_SITE, NEW_SITE = "Birch", "Cedar"  # of the watched task's first scans, and of the new scanner's
PREDICTED_PATIENTS = 36  # shifted patients whose scans are sent to the endpoint before their labels arrive
QUICK_DIVISOR = 3  # --quick divides the number of patients by it
PEOPLE = (("ines", "engineer"), ("mara", "clinician"), ("otto", "auditor"))
WAITING = "waiting for approval"
GATE_EXIT_CODES = (0, 3, 4)  # of a command whose gates may give any outcome
REASON = "a demo on synthetic studies: the verdict names what is missing, and shows the approval by a person"


def demo(args: argparse.Namespace) -> Answer:
    """Run the demo in a separate workspace, which is kept afterwards.

    Exit code 0: every gate had the expected outcome. 3: a gate failed. 4: a gate was inconclusive. 1: an error.
    """
    workspace: Path = args.at.absolute()
    settings = adapt_settings(making.shipped_file(params.NAME).read_text(encoding="utf-8"), args.set)
    started = time.monotonic()
    _clear_workspace(workspace)
    story = Story(workspace, steps=9)
    with story.progress:
        servers = None
        try:
            servers = _set_up(story, settings)
            token = _add_people(story)
            _first_batches(story, args.seed, args.quick)
            _first_models(story)
            first_answer = _first_answer(story, token)
            is_retraining_requested = _send_shifted_scans(story, token, args.seed, args.quick)
            _admit_labels(story, args.seed, args.sham, args.quick)
            decision = _retrain(story, is_retraining_requested, args.sham)
            _verify_records(story, first_answer)
        finally:
            if servers is not None:
                services.end(servers.pid, 30.0)
    seconds = time.monotonic() - started
    story.table(f"results, after {seconds:.0f} s")
    result = {
        "workspace": str(workspace),
        "seconds": round(seconds, 1),
        "prediction": first_answer["id"] if first_answer else None,
        "sham": args.sham,
        "gates": story.gates,
        **decision,
    }
    return Answer(result, _closing_text(workspace, args.at), exit_code(story.gates, decision, args.sham))


def exit_code(gates: dict[str, str], decision: dict[str, Any], sham: bool) -> int:
    """0 if the gates had the expected outcomes: promotion with real labels, no promotion with permuted labels."""
    outcomes = [outcome for subject, outcome in gates.items() if subject != decision["subject"]]
    if sham:
        outcomes.append("fail" if decision["decision"] == "promoted" else "pass")
    else:
        outcomes.append(decision["challenger"])
    return 3 if "fail" in outcomes else 4 if "inconclusive" in outcomes else 0


def _clear_workspace(workspace: Path) -> None:
    """Make an empty folder; an earlier demo's folder is deleted, any other folder never."""
    if workspace.exists() and any(workspace.iterdir()):
        if not (workspace / MARK_FILE).exists():
            raise Fault(f"{workspace} is not empty and is not the workspace of a demo; choose another folder with --at")
        from pipelines.servers.services import clear_leftovers

        os.environ["ONCOLOOP_HOME"] = str(workspace / "var")
        clear_leftovers()
        shutil.rmtree(workspace)
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / MARK_FILE).touch()
    for name in ("ONCOLOOP_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)


def _set_up(story: Story, settings: str) -> Any:
    with story.step("1  create a workspace and start its servers") as report:
        story.command("init", str(story.workspace))
        (story.workspace / params.NAME).write_text(settings, encoding="utf-8")
        port = next(
            p for p in range(PORT, PORT + 1000, 100) if not any(services.is_port_in_use(p + n) for n in (0, 1, 10))
        )
        servers = story.background("up", "--only", "desk,prefect,runner,release", "--port", str(port))
        report(f"{story.workspace}, servers on ports from {port}")
    return servers


def adapt_settings(text: str, changes: list[str]) -> str:
    """The demo's params.yaml: cron lines that do not fire, automatic approval, the site of the first brain scans, which
    name none, as the desk's own, and the changes (SECTION.KEY=VALUE).

    Fault for a change of an unknown key.
    """
    for line in yaml.safe_load(text)["schedule"].values():
        text = text.replace(f'"{line}"', f'"{NEVER}"')
    for change in ["promotion.approval=automatic", f"serving.site={OWN_SITE}", *changes]:
        name, _, value = change.partition("=")
        section, _, key = name.partition(".")
        match = re.search(rf"(?ms)^{re.escape(section)}:\n(?:[ #][^\n]*\n)*?  {re.escape(key)}: (\S+)", text)
        if match is None or not value:
            raise Fault(f"--set {change}: give SECTION.KEY=VALUE with a section and a key of params.yaml")
        text = text[: match.start(1)] + value + text[match.end(1) :]
    return text


def _add_people(story: Story) -> str:
    for name, role in PEOPLE:
        story.command("user", "add", name, "--role", role)
        if role == "engineer":  # signs the decisions from now on
            story.command("signin", story.command("login", name)["link"])
    return str(story.command("login", "mara", "--token", "--days", "1")["token"])


def _first_batches(story: Story, seed: int, quick: bool) -> None:
    from data.phantom import batch as phantom_batch
    from data.phantom import samples
    from data.phantom import scanner as phantom_scanner

    tasks = params.load(story.workspace).tasks
    with story.step("2  ingest the first labelled batches, and a faulty one") as report:
        for number, (name, scanner, patients, slices) in enumerate(FIRST_BATCHES):
            folder, count = story.workspace / "inbox" / f"{name}-{scanner}", patients // (QUICK_DIVISOR if quick else 1)
            phantom = phantom_scanner.SCANNERS[scanner]
            phantom_batch.write_batch(folder, tasks[name], count, phantom, 10 * seed + number, slices, masks=True)
        samples.bad_batch(story.workspace / "inbox" / "lung-ct-bad", tasks["lung-ct"], seed)
        scanners = {name: phantom_scanner.SCANNERS[scanner] for name, scanner, *_ in FIRST_BATCHES}
        samples.try_samples(story.workspace / "try", [tasks[name] for name in scanners], scanners)
        for result in story.command("ingest", codes=GATE_EXIT_CODES)["batches"]:
            verdict = result["verdict"]
            state = "admitted" if verdict["outcome"] == "pass" else "quarantined"
            report(f"{result['batch']}: {state}: {verdict['reasons'][0]}")


def _first_models(story: Story) -> None:
    with story.step("3  train the first models, judge and release them") as report:
        result = story.command("retrain", "--reason", "first models", codes=GATE_EXIT_CODES)
        for entry in result["models"]:
            _report_verdict(story, report, entry)
        if result["release"]:
            report(f"release {result['release']} contains the models that passed the gate")


def _report_verdict(story: Story, report: Any, entry: dict[str, Any], sham: bool = False) -> str:
    """Report the verdict of the training gate on a version; a person approves it if it waits for approval."""
    verdict, name = entry["verdict"], f"{entry['task']}/{entry['version']}"
    story.gates[name] = verdict["outcome"]
    report(f"{name}: {verdict['outcome']}, {entry['decision']}: {verdict['reasons'][0]}")
    if verdict["outcome"] == "fail":
        missing = "; ".join(verdict["reasons"])
        report(f"{name} is rejected, and no person can approve it; reasons: {missing}")
    if entry["decision"] != WAITING or sham:
        return str(entry["decision"])
    demo_browser.approve(story, entry["task"], entry["version"], REASON)
    report(f"{name} is approved by ines (engineer); her decision and reason are in the ledger")
    return "approved by a person"


def _first_answer(story: Story, token: str) -> dict[str, Any] | None:
    with story.step("4  ask the release over HTTP") as report:
        champions = {name: roles.get("champion") for name, roles in story.command("status")["tasks"].items()}
        tasks_without_model = [name for name, *_ in FIRST_BATCHES if not champions[name]]
        tasks_with_model = [name for name, *_ in FIRST_BATCHES if champions[name]]
        if not tasks_with_model:
            report(f"there is no release: no model of {', '.join(tasks_without_model)} was approved")
            return None
        release = story.wait("a served release", lambda: _live_release(story, tasks_with_model), 300)
        with demo_browser.client(demo_browser.address(story), token) as desk:
            scan = next((story.workspace / "try").glob(f"{tasks_with_model[0]}-clear*"))
            answer = demo_browser.ask(desk, [scan], tasks_with_model[0])
            score = f"score {answer['score']:.3f}, threshold {answer['threshold']:.3f}"
            report(f"release {release}: {answer['title']}: {answer['answer'] or 'no answer'} ({score})")
            path = demo_browser.report(story, desk, answer["id"])
        report(f"the answer has a heat map; report: {story.workspace.name}/{path.name}")
        if tasks_without_model:
            report(f"tasks without a model, so without answers: {', '.join(tasks_without_model)}")
    return answer


def _live_release(story: Story, tasks: list[str]) -> str | None:
    """The release that answers, if it has a model of all these tasks."""
    release = story.command("status")["live"]
    return str(release["release"]) if release and set(tasks) <= set(release["tasks"]) else None


def _send_shifted_scans(story: Story, token: str, seed: int, quick: bool) -> bool:
    """Send scans of a new scanner to the endpoint; return whether the watch requests retraining."""
    from data.phantom import batch as phantom_batch
    from data.phantom import scanner as phantom_scanner

    task, divisor = params.load(story.workspace).tasks[WATCHED_TASK], QUICK_DIVISOR if quick else 1
    with story.step("5  send scans of another scanner to the endpoint; watch for drift") as report:
        batch, scanner = (
            story.workspace / "later" / f"{WATCHED_TASK}-new-scanner",
            phantom_scanner.SCANNERS[SHIFTED_SCANNER],
        )
        phantom_batch.write_batch(batch, task, SHIFTED_PATIENTS // divisor, scanner, 10 * seed + 9, SHIFTED_SLICES)
        if not story.command("status")["tasks"][WATCHED_TASK].get("champion"):
            report(f"{WATCHED_TASK} has no model, so these scans get no answer, and there is no drift to watch")
            return False
        token = _new_site_token(story)
        scans = sorted(path for path in batch.iterdir() if path.name != "metadata.csv")[: PREDICTED_PATIENTS // divisor]
        with demo_browser.client(demo_browser.address(story), token) as desk:
            answers = [demo_browser.ask(desk, [scan], WATCHED_TASK) for scan in scans]
        [result] = story.command("watch", "--task", WATCHED_TASK, codes=GATE_EXIT_CODES)
        report(f"watch: {result['verdict']['outcome']}: {'; '.join(result['verdict']['reasons'][:2])}")
        withheld = sum(answer["verdict"]["outcome"] != "pass" for answer in answers)
        report(f"{len(answers)} scans of {NEW_SITE} sent, the answers to {withheld} withheld by the serving gate")
        report(next(reason for reason in answers[0]["verdict"]["reasons"] if "accepted" in reason))
        story.gates[f"watch of {WATCHED_TASK}"] = "pass" if result["asked"] else "inconclusive"
        if not result["asked"]:
            report("the watch requests no retraining; an engineer will, when the labels have arrived")
    return bool(result["asked"])


def _new_site_token(story: Story) -> str:
    """A token of the program that sends the scans of the new site; its NIfTI files name no institution."""
    return str(story.command("login", "mara", "--token", "--days", "1", "--site", NEW_SITE)["token"])


def _ask_from_new_site(story: Story, report: Any) -> None:
    """Send a scan of the new site again: it is answered if the new version was judged on enough of its patients."""
    batch = story.workspace / "inbox" / f"{WATCHED_TASK}-new-scanner"
    scan = next(path for path in sorted(batch.iterdir()) if path.name != "metadata.csv")
    with demo_browser.client(demo_browser.address(story), _new_site_token(story)) as desk:
        verdict = demo_browser.ask(desk, [scan], WATCHED_TASK)["verdict"]
    is_accepted = not any("accepted" in reason for reason in verdict["reasons"])
    state = "is accepted with the new version" if is_accepted else "still waits for `oncoloop site accept`"
    report(f"the site {NEW_SITE} {state}")


def _admit_labels(story: Story, seed: int, sham: bool, quick: bool) -> None:
    from data.phantom import batch as phantom_batch
    from data.phantom import scanner as phantom_scanner

    with story.step("6  ingest the labels of these scans" + (", permuted" if sham else "")) as report:
        name = f"{WATCHED_TASK}-new-scanner"
        source, target = story.workspace / "later" / name, story.workspace / "inbox" / name
        shutil.move(source, target)
        if sham:
            task, scanner = params.load(story.workspace).tasks[WATCHED_TASK], phantom_scanner.SCANNERS[SHIFTED_SCANNER]
            count = SHIFTED_PATIENTS // (QUICK_DIVISOR if quick else 1)
            phantom_batch.write_batch(target, task, count, scanner, 10 * seed + 9, SHIFTED_SLICES, sham=True)
        for result in story.command("ingest", codes=GATE_EXIT_CODES)["batches"]:
            report(f"{result['batch']}: {result['verdict']['outcome']}: {result['verdict']['reasons'][0]}")


def _retrain(story: Story, is_requested: bool, sham: bool) -> dict[str, Any]:
    trigger = "the watch's event starts the retraining" if is_requested else "an engineer starts the retraining"
    with story.step(f"7  {trigger}; compare challenger and champion") as report:
        if not is_requested:
            story.command(
                "retrain", "--task", WATCHED_TASK, "--reason", "labels of a new scanner", codes=GATE_EXIT_CODES
            )
        approval = params.load(story.workspace).promotion.approval

        def challenger() -> Any:
            decisions = [entry for entry in story.command("status")["decisions"] if entry["task"] == WATCHED_TASK]
            latest = next((entry for entry in decisions if entry["version"] != "1"), None)
            if latest is None:
                return None
            state = (latest["decision"], latest["verdict"]["outcome"], approval)
            return latest if state != (WAITING, "pass", "automatic") else None

        entry: dict[str, Any] = story.wait("the retraining", challenger, 600, interval=5.0)
        verdict, subject = entry["verdict"], f"{WATCHED_TASK}/{entry['version']}"
        decision = _report_verdict(story, report, entry, sham)
        for reason in verdict["reasons"][1:] if verdict["outcome"] != "fail" else ():
            report(reason)
    with story.step("8  release and serve the new model") as report:
        champion = story.command("status")["tasks"][WATCHED_TASK].get("champion")
        if champion == entry["version"]:
            release = story.wait("the new release", lambda: _release_with(story, entry["version"]), 300)
            report(f"release {release} answers with {subject}")
            _ask_from_new_site(story, report)
        else:
            outcome = (
                f"the champion stays: {WATCHED_TASK}/{champion}"
                if champion
                else f"{WATCHED_TASK} stays without a model"
            )
            report(f"the outcome of the gate is {verdict['outcome']}, so nothing is released; {outcome}")
    return {"subject": subject, "challenger": verdict["outcome"], "decision": decision, "reasons": verdict["reasons"]}


def _release_with(story: Story, version: str) -> str | None:
    release = story.command("status")["live"]
    return str(release["release"]) if release and release["tasks"].get(WATCHED_TASK) == version else None


def _verify_records(story: Story, first_answer: dict[str, Any] | None) -> None:
    with story.step("9  trace the first prediction; verify the ledger") as report:
        if first_answer is None:
            report("there is no prediction to trace")
        else:
            chain = story.command("trace", first_answer["id"])
            report(" -> ".join(dict.fromkeys(link["step"] for link in chain["links"])))
        report(f"ledger: {story.command('verify', codes=GATE_EXIT_CODES)['outcome']}")


def _closing_text(workspace: Path, display_path: Path) -> str:
    lines = [
        f"the workspace is kept in {display_path}; see",
        f"  oncoloop up -C '{display_path}' --links     (or `make up`): pages, with a one-time link for each person",
        f"  {display_path}/try/               sample studies for the clinician's page",
    ]
    if (workspace / "report.html").exists():
        lines.append(f"  {display_path}/report.html        the first case's report")
    pages = [
        *sorted((workspace / "var").glob("gx/**/index.html"))[:1],
        *sorted((workspace / "var").glob("evidently/**/*.html"))[-1:],
    ]
    lines += [f"  {page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page}" for page in pages]
    sys.stderr.flush()
    return "\n".join(lines)
