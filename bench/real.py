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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import results
import texture
import yaml

from lineage.errors import Fault
from pipelines import params
from pipelines.commands.demo_browser import address, ask, client
from pipelines.commands.demo_console import Story
from pipelines.servers import services

ROOT = Path(__file__).resolve().parent.parent
MARK = ".oncoloop-real"
FOLDS = {"lung-ct": 5, "brain-mr": 0}  # 0: leave one patient out
BY_IMAGE = {"lung-ct": 3, "brain-mr": 3}
RECIPES: dict[str, dict[str, Any]] = {  # what a task's own `fit` sets otherwise than the shipped one
    "lung-ct": {
        "epochs": 30,
        "patience": 0,
        "sampling": "balanced",
        "local_contrast": 7,
        "augment": {"rotation": 30, "shift": 0.15, "zoom": 0.3, "brightness": 0.3, "contrast": 0.3, "noise": 0.0},
    },
    "brain-mr": {"epochs": 200, "patience": 0, "mask_weight": 1.0, "augment": {"paste": 0.5}},
}
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
            "set ONCOLOOP_REAL_DATA to the folder of the public sets; docs/how-to/engineer/public-sets.md names them"
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
                settle(workspace)
                story.command("user", "add", "mara", "--role", "clinician")
                token = story.command("login", "mara", "--token", "--days", "1")["token"]
                say(str(workspace))
            with story.step("import and ingest") as say:
                take(story, data, say)
            with story.step("first models") as say:
                models(story, say)
            house = story.background("up", "--only", "desk,prefect,runner,release", "--port", str(free()))
            with story.step("the later examinations arrive") as say:
                story.command(
                    "import",
                    str(data / "brain-mr-tumor-progression"),
                    "--task",
                    "brain-mr",
                    "--batch",
                    "brain-post",
                    "--only",
                    "Post*",
                )
                ingest(story, say)
                models(story, say)
            with story.step("chest CT through the served endpoint") as say:
                answers = chest(story, data, token)
                say(f"{len(answers)} answers")
        finally:
            if house is not None:
                services.end(house.pid, 30.0)
        with story.step("every patient judged in turn; beside it, folds dealt by image") as say:
            with ThreadPoolExecutor(1) as aside:
                honest = aside.submit(lambda: {task: judged(story, task) for task in FOLDS})
                by_image = {task: leaked(workspace, task) for task in FOLDS}
            found = {task: {"network": honest.result()[task], "by image": by_image[task]} for task in FOLDS}
            say("done")
        with story.step("the finest texture alone") as say:
            for task in FOLDS:
                found[task]["texture"] = textured(workspace, task)
            say("done")
    story.table("real scans")
    results.write(story, found, RECIPES, answers, time.monotonic() - began)


def settle(workspace: Path) -> None:
    """The tasks' own fit settings into the workspace's params.yaml."""
    path = workspace / params.NAME
    record = yaml.safe_load(path.read_text(encoding="utf-8"))
    for task, recipe in RECIPES.items():
        record["tasks"][task][params.FIT] = recipe
    path.write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")


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
    if not any(entry["task"] == "lung-ct" and entry["decision"] == "promoted" for entry in results.decided(story)):
        return []
    story.wait("a served release", lambda: story.command("status")["live"], 120)
    with client(address(story), token) as connection:
        files = sorted((data / "chest-ct-tcga-luad-dicom").glob("*.dcm"))
        return [ask(connection, [path], "lung-ct") for path in files]


def judged(story: Story, task: str) -> dict[str, Any]:
    """The shipped network by cross-validation over clusters, as an engineer asks for it."""
    told: dict[str, Any] = story.command("crossval", task, "--folds", str(FOLDS[task]))
    return told


def leaked(workspace: Path, task: str) -> dict[str, Any]:
    """The same, the images dealt by chance to folds: every image stands for a patient of its own."""
    from training.evaluation import cross_validation

    settings, units = prepared(workspace, task)
    dealt = dataclasses.replace(units, table=units.table.assign(cluster=units.table["unit_id"]))
    return cross_validation.crossval(
        dealt,
        settings.task(task),
        settings.fit_of(task),
        settings.calibrate,
        settings.evaluate,
        BY_IMAGE[task],
        workspace / "by-image" / task,
    )


def textured(workspace: Path, task: str) -> dict[str, Any]:
    """What texture without shape or place tells, in the folds by cluster."""
    settings, units = prepared(workspace, task)
    return texture.judged(units, settings.task(task), settings.evaluate, FOLDS[task])


def prepared(workspace: Path, task: str) -> tuple[params.Params, Any]:
    """The settings of the workspace, and a task's units as its networks see them."""
    from data.dataset import shards

    os.environ["ONCOLOOP_HOME"] = str(workspace / "var")
    return params.load(workspace), shards.load(workspace / "var" / "worktree" / "data" / "processed" / task)


if __name__ == "__main__":
    main()
