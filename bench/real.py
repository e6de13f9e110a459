"""The loop on real scans: `make real`. Imports, ingests, retrains, approves, serves, and writes docs/results.md.

Made of the public commands, in a workspace of its own (var/real). Figures are by cross-validation over groups or
patients (`oncoloop crossval`), beside the baseline, and beside the same network with the folds dealt by image: that
difference is leakage, not skill.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from lineage.fault import Fault
from pipelines import params, services
from pipelines.commands.demo import ask_files, client, front
from pipelines.story import Story

ROOT = Path(__file__).resolve().parent.parent
MARK = ".oncoloop-real"
SETS = {
    "lung-ct": (
        "IQ-OTH/NCCD lung cancer dataset, Alyasriy and Al-Huseiny, Mendeley Data, doi 10.17632/bhmdr45bh2, CC BY 4.0"
    ),
    "brain-mr": (
        "Brain-Tumor-Progression, Schmainda and Prah 2018, TCIA, doi 10.7937/K9/TCIA.2018.15quzvnb, CC BY 3.0"
    ),
}
CAUTION = {
    "lung-ct": "The groups are near-duplicates put together, not patients, and pictures of one class may share a "
    "scanner or a window: read these figures as an upper bound. In the gallery of the worst errors the heat maps lie "
    "mostly on the back of the chest wall and beside the body, not in the lung: the network leans on more than "
    "tumours.",
    "brain-mr": "Seven patients: two on the test side. The interval resamples two clusters and says little.",
}
CHEST = "TCGA-LUAD, Albertina et al. 2016, TCIA, doi 10.7937/K9/TCIA.2016.JGNIHEP5, CC BY 3.0"
FOLDS = {"lung-ct": 5, "brain-mr": 0}  # 0: leave one patient out
SEVEN = 7  # folds by image, where there are as many patients
FIGURES = ("auroc", "sensitivity", "specificity", "balanced_accuracy", "accuracy")
PACKAGES = ("tensorflow", "keras", "openvino", "mlflow", "prefect", "dvc", "great-expectations", "bentoml", "evidently")
REASON = "research run on public scans: the intervals are wide, the figures are published with them"


def main() -> None:
    """Run it all; exit with one sentence if something is missing."""
    try:
        run(source())
    except Fault as fault:
        sys.exit(f"real: {fault}")


def source() -> Path:
    """The folder of real scans."""
    folder = Path(os.environ.get("ONCOLOOP_REAL_DATA", "")).expanduser()
    if not os.environ.get("ONCOLOOP_REAL_DATA") or not folder.is_dir():
        raise Fault(
            "set ONCOLOOP_REAL_DATA to the folder of the public sets; docs/real-data.md says where they come from"
        )
    return folder.absolute()


def run(data: Path) -> None:
    """The story, then the page."""
    workspace = ROOT / "var" / "real"
    if workspace.exists():
        if not (workspace / MARK).exists():
            raise Fault(f"{workspace} is not a workspace of this bench; move it away")
        shutil.rmtree(workspace)
    workspace.mkdir(parents=True)
    (workspace / MARK).touch()
    began = time.monotonic()
    story = Story(workspace, steps=6)
    house = None
    with story.progress:
        try:
            with story.step("workspace") as say:
                story.command("init", str(workspace))
                story.command("user", "add", "mara", "--role", "clinician")
                token = story.command("login", "mara", "--token", "--days", "1")["token"]
                say(str(workspace))
            with story.step("import and ingest") as say:
                take(story, data, say)
            with story.step("first models") as say:
                models(story, say)
            house = story.background("up", "--only", "desk,prefect,runner,release", "--port", str(free()))
            with story.step("the later examinations arrive") as say:
                story.command("import", str(data / "brain-mr-tumor-progression"), "--task", "brain-mr", "--batch",
                              "brain-post", "--only", "Post*")  # fmt: skip
                ingest(story, say)
                models(story, say)
            with story.step("chest CT through the served endpoint") as say:
                answers = chest(story, data, token)
                say(f"{len(answers)} answers")
        finally:
            if house is not None:
                services.end(house.pid, 30.0)
        with story.step("every patient judged in turn") as say:
            honest = {task: judged(story, task) for task in SETS}
            say("done")
        with story.step("the same network, folds dealt by image") as say:
            by_image = {task: leaked(workspace, task) for task in SETS}
            say("done")
    story.table("real scans")
    write(story, honest, by_image, answers, time.monotonic() - began)


def free() -> int:
    """A base port whose services' ports are free."""
    return next(p for p in range(7800, 9000, 100) if not any(services.taken(p + n) for n in (0, 1, 10)))


def take(story: Story, data: Path, say: Any) -> None:
    """The first batches: all lung slices, and the first examinations of the brains."""
    for name, task, batch, only in (
        ("lung-ct-iq-oth-nccd", "lung-ct", "lung-iq-oth-nccd", ()),
        ("brain-mr-tumor-progression", "brain-mr", "brain-pre", ("--only", "Pre*")),
    ):
        record = story.command("import", str(data / name), "--task", task, "--batch", batch, *only)
        say(f"{batch}: {json.dumps(record)[:300]}")
    ingest(story, say)


def ingest(story: Story, say: Any) -> None:
    """Judge what waits."""
    for result in story.command("ingest", codes=(0, 3))["batches"]:
        say(f"{result['batch']}: {result['verdict']['outcome']}: {'; '.join(result['verdict']['reasons'][:3])}")


def models(story: Story, say: Any) -> None:
    """Retrain; a person approves what is inconclusive, with a reason, and what passed."""
    for entry in story.command("retrain", codes=(0, 3, 4))["models"]:
        verdict = entry["verdict"]
        say(f"{entry['task']}/{entry['version']}: {verdict['outcome']}: {verdict['reasons'][0]}")
    for task, versions in story.command("status")["waiting"].items():  # also what an event's run judged meanwhile
        for number in versions:
            story.command("approve", task, number, "--reason", REASON)


def chest(story: Story, data: Path, token: str) -> list[dict[str, Any]]:
    """Every DICOM chest slice through the front, if a model was let through; without labels, what was said is told."""
    if not any(entry["task"] == "lung-ct" and entry["decision"] == "promoted" for entry in decided(story)):
        return []
    story.wait("a served release", lambda: story.command("status")["live"], 120)
    with client(front(story), token) as connection:
        files = sorted((data / "chest-ct-tcga-luad-dicom").glob("*.dcm"))
        return [ask_files(connection, [path], "lung-ct") for path in files]


def judged(story: Story, task: str) -> dict[str, Any]:
    """The shipped network by cross-validation over clusters, as an engineer asks for it."""
    told: dict[str, Any] = story.command("crossval", task, "--folds", str(FOLDS[task]))
    return told


def leaked(workspace: Path, task: str) -> dict[str, Any]:
    """The same, the images dealt by chance to as many folds: every image stands for a patient of its own."""
    from data import batches
    from training import crossval

    os.environ["ONCOLOOP_HOME"] = str(workspace / "var")
    settings = params.load(workspace)
    units = batches.load(workspace / "var" / "worktree" / "data" / "processed" / task)
    dealt = dataclasses.replace(units, table=units.table.assign(cluster=units.table["unit_id"]))
    return crossval.crossval(
        dealt, settings.task(task), settings.fit_of(task), settings.calibrate, settings.evaluate, FOLDS[task] or SEVEN,
        workspace / "by-image" / task,
    )  # fmt: skip


def write(
    story: Story, honest: dict[str, Any], by_image: dict[str, Any], answers: list[dict[str, Any]], seconds: float
) -> None:
    """docs/results.md."""
    workspace = story.workspace
    settings = params.load(workspace)
    lines = [
        "# Results on real scans", "",
        "Written by `make real` (bench/real.py). Research use only. Every unit is judged once, by a network whose fit,",
        "early stop and calibration never saw its cluster (patient, or group of near-duplicates if patients are",
        "unknown). Every interval (95 %) resamples clusters, never images; the baseline is logistic regression on",
        "simple intensities, in the same folds. *By image* is what the same network seems to reach when slices of one",
        "patient may fall on both sides: leakage, not skill. Scores of different folds are of different networks.", "",
        f"Whole run {seconds / 60:.1f} minutes on {os.cpu_count()} cores, backbone `{settings.fit.backbone}`, no "
        f"pretrained weights, seeds split {settings.split.seed}, fit {settings.fit.seed}, evaluate "
        f"{settings.evaluate.seed}. " + ", ".join(f"{name} {version(name)}" for name in PACKAGES) + ".", "",
    ]  # fmt: skip
    for task, citation in SETS.items():
        lines += [f"## {task}", "", f"Data: {citation}.", "", CAUTION[task], ""]
        lines += [*section(workspace, task, honest[task], by_image[task]), ""]
    lines += ["## pancreas-ct", "", "Phantoms only: there is no openly licensed set at hand. No figure is given.", ""]
    lines += [
        "## Chest CT from elsewhere, through the served endpoint",
        "",
        f"Data: {CHEST}. No slice has a label.",
        "",
    ]
    lines += told(answers)
    lines += ["", "## Durations", "", "| step | seconds |", "|---|---|"]
    lines += [f"| {name} | {took:.0f} |" for name, _, took in story.happened]
    (ROOT / "docs" / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def section(workspace: Path, task: str, honest: dict[str, Any], by_image: dict[str, Any]) -> Iterable[str]:
    """One task: what there is, the figures beside baseline and leakage, then the gate's word on the loop's versions."""
    units = workspace / "var" / "worktree" / "data" / "processed" / task / "units.csv"
    table = pd.read_csv(units, dtype={"cluster": str})
    yield from ("| class | clusters | units |", "|---|---|---|")
    for label, part in table.groupby("label"):
        yield f"| {label} | {part['cluster'].nunique()} | {len(part)} |"
    yield from remarks(workspace, table)
    way = f"{honest['folds']} folds" if FOLDS[task] else "leave one patient out"
    yield from ("", f"| figure ({way}) | by cluster | baseline | by image |", "|---|---|---|---|")
    for name in FIGURES:
        columns = (honest["test"].get(name), honest["baseline"].get(name), by_image["test"].get(name))
        yield f"| {name.replace('_', ' ')} | " + " | ".join(map(shown, columns)) + " |"
    means = (one["fold_auroc"]["mean"] for one in (honest, honest["baseline"], by_image))
    yield "| auroc, mean of the folds' own | " + " | ".join(f"{mean:.3f}" for mean in means) + " |"
    gaps = [honest["baseline"][name] for name in ("difference", "difference_balanced_accuracy")]
    yield from ("", f"Ahead of the baseline by {shown(gaps[0])} in AUROC, {shown(gaps[1])} in balanced accuracy.")
    yield from ("", "Confusion (rows the truth, columns the answer): " + "; ".join(
        f"{label}: {', '.join(map(str, row))}" for label, row in zip(classes(workspace, task),
        honest["test"]["confusion"], strict=True)) + ".")  # fmt: skip
    for event in decisions(workspace, task):
        yield from (
            "",
            f"In the loop, version {event['version']} on the fixed test side: the gate said "
            f"**{event['verdict']['outcome']}**, then {event['decision']}.",
        )
        yield from (f"- {reason}" for reason in event["verdict"]["reasons"])


def classes(workspace: Path, task: str) -> tuple[str, ...]:
    """The classes in the order of the confusion."""
    return params.load(workspace).task(task).classes


def remarks(workspace: Path, table: pd.DataFrame) -> Iterable[str]:
    """What the import had to say of the batches: blank slices, and groups whose files carry two labels."""
    for batch, rows in table.groupby("batch"):
        record = json.loads((workspace / "inbox" / str(batch) / "import.json").read_text(encoding="utf-8"))
        if blank := record.get("blank_slices_left_out"):
            yield from ("", f"{batch}: {blank} blank slices are padding and were left out.")
        if record["clusters_with_two_labels"]:
            for _, group in rows.groupby("cluster"):
                if group["label"].nunique() > 1:
                    labels, sides = (" and ".join(sorted(set(group[name]))) for name in ("label", "side"))
                    yield from ("", f"{batch}: one group holds two labels ({labels}), all of it on one side ({sides}).")


def decisions(workspace: Path, task: str) -> list[dict[str, Any]]:
    """What the gate said of each version."""
    return [entry for entry in decided(Story(workspace, steps=1)) if entry["task"] == task]


def decided(story: Story) -> list[dict[str, Any]]:
    """Every version that was judged, what the gate said of it, and what became of it."""
    found: list[dict[str, Any]] = story.command("status")["decisions"]
    return found


def shown(figure: Any) -> str:
    """A figure with its interval, or why there is none."""
    if not isinstance(figure, dict) or figure.get("value") is None:
        return "unknown"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def told(answers: list[dict[str, Any]]) -> list[str]:
    """What was said about the chest slices, counted."""
    if not answers:
        return ["No version of lung-ct was let through by the gate, so nothing was asked."]
    given = [answer for answer in answers if answer["verdict"]["outcome"] == "pass"]
    counts = {
        name: sum(answer["answer"] == name for answer in given) for name in sorted({str(a["answer"]) for a in given})
    }
    reasons: dict[str, int] = {}
    for answer in answers:
        if answer["verdict"]["outcome"] != "pass":
            for reason in answer["verdict"]["reasons"]:
                text = reason.split(":")[0].split("(")[0].strip()
                reasons[text] = reasons.get(text, 0) + 1
    lines = [
        f"{len(answers)} slices, each of its own patient: {len(given)} answered, {len(answers) - len(given)} withheld."
    ]
    lines += [f"- answered {name}: {count}" for name, count in counts.items()]
    return lines + [f"- withheld, {reason}: {count}" for reason, count in reasons.items()]


if __name__ == "__main__":
    main()
