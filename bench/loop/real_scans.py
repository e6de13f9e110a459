"""Runs the loop on real scans (`make real`): imports, ingests, retrains, approves, serves, writes docs/results.md.

It uses the public commands in a separate workspace (var/real). The figures come from cross-validation over groups or
patients (`oncoloop crossval`). They are compared with the baseline, and with the same network in folds by image: that
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

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages and `bench` are beside it

from bench.loop import results_page, texture_baseline
from lineage.errors import Fault
from pipelines import params
from pipelines.commands.demo_browser import address, ask, client
from pipelines.commands.demo_console import Story
from pipelines.servers import services

ROOT = Path(__file__).resolve().parents[2]
MARK = ".oncoloop-real"
FOLDS = {"lung-ct": 5, "brain-mr": 0}  # 0: leave one patient out
BY_IMAGE = {"lung-ct": 3, "brain-mr": 3}
RECIPES: dict[str, dict[str, Any]] = {  # values that a task's own `fit` overrides
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
    """Run everything; exit with one sentence if something is missing."""
    try:
        run(data_folder())
    except Fault as fault:
        sys.exit(f"real: {fault}")


def data_folder() -> Path:
    """The folder of real scans."""
    folder = Path(os.environ.get("ONCOLOOP_REAL_DATA", "")).expanduser()
    if not os.environ.get("ONCOLOOP_REAL_DATA") or not folder.is_dir():
        raise Fault(
            "set ONCOLOOP_REAL_DATA to the folder of the public sets; docs/how-to/engineer/public-sets.md names them"
        )
    return folder.absolute()


def run(data: Path) -> None:
    """Run the loop, then write the page."""
    workspace = ROOT / "var" / "real"
    if workspace.exists():
        if not (workspace / MARK).exists():
            raise Fault(f"{workspace} is not a workspace of this bench; move it away")
        shutil.rmtree(workspace)
    workspace.mkdir(parents=True)
    (workspace / MARK).touch()
    start = time.monotonic()
    story = Story(workspace, steps=6)
    services_process = None
    with story.progress:
        try:
            with story.step("workspace") as report:
                story.command("init", str(workspace))
                write_recipes(workspace)
                story.command("user", "add", "mara", "--role", "clinician")
                token = story.command("login", "mara", "--token", "--days", "1")["token"]
                report(str(workspace))
            with story.step("import and ingest") as report:
                import_first_batches(story, data, report)
            with story.step("first models") as report:
                retrain_and_approve(story, report)
            services_process = story.background(
                "up", "--only", "desk,prefect,runner,release", "--port", str(free_port())
            )
            with story.step("import and ingest of later examinations") as report:
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
                ingest_waiting(story, report)
                retrain_and_approve(story, report)
            with story.step("chest CT on the served endpoint") as report:
                answers = predict_chest(story, data, token)
                report(f"{len(answers)} answers")
        finally:
            if services_process is not None:
                services.end(services_process.pid, 30.0)
        with story.step("cross-validation by patient, and by image") as report:
            with ThreadPoolExecutor(1) as pool:
                by_cluster = pool.submit(lambda: {task: cross_validate(story, task) for task in FOLDS})
                by_image = {task: cross_validate_by_image(workspace, task) for task in FOLDS}
            figures = {task: {"network": by_cluster.result()[task], "by image": by_image[task]} for task in FOLDS}
            report("done")
        with story.step("texture baseline") as report:
            for task in FOLDS:
                figures[task]["texture"] = judge_texture(workspace, task)
            report("done")
    story.table("real scans")
    results_page.write(story, figures, RECIPES, answers, time.monotonic() - start)


def write_recipes(workspace: Path) -> None:
    """Write the tasks' own fit settings into the workspace's params.yaml."""
    path = workspace / params.NAME
    record = yaml.safe_load(path.read_text(encoding="utf-8"))
    for task, recipe in RECIPES.items():
        record["tasks"][task][params.FIT] = recipe
    path.write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")


def free_port() -> int:
    """A base port such that the ports of the services are free."""
    return next(p for p in range(7800, 9000, 100) if not any(services.is_port_in_use(p + n) for n in (0, 1, 10)))


def import_first_batches(story: Story, data: Path, report: Any) -> None:
    """Import and ingest the first batches: all lung slices, and the first examinations of the brains."""
    for name, task, batch, only in (
        ("lung-ct-iq-oth-nccd", "lung-ct", "lung-iq-oth-nccd", ()),
        ("brain-mr-tumor-progression", "brain-mr", "brain-pre", ("--only", "Pre*")),
    ):
        record = story.command("import", str(data / name), "--task", task, "--batch", batch, *only)
        report(f"{batch}: {json.dumps(record)[:300]}")
    ingest_waiting(story, report)


def ingest_waiting(story: Story, report: Any) -> None:
    """Ingest all waiting batches."""
    for result in story.command("ingest", codes=(0, 3))["batches"]:
        report(f"{result['batch']}: {result['verdict']['outcome']}: {'; '.join(result['verdict']['reasons'][:3])}")


def retrain_and_approve(story: Story, report: Any) -> None:
    """Retrain, then approve every waiting version (passed or inconclusive) with a reason."""
    for entry in story.command("retrain", codes=(0, 3, 4))["models"]:
        verdict = entry["verdict"]
        report(f"{entry['task']}/{entry['version']}: {verdict['outcome']}: {verdict['reasons'][0]}")
    for task, versions in story.command("status")[
        "waiting"
    ].items():  # includes versions judged by event-triggered runs
        for number in versions:
            story.command("approve", task, number, "--reason", REASON)


def predict_chest(story: Story, data: Path, token: str) -> list[dict[str, Any]]:
    """Answers of the desk to every unlabelled DICOM chest slice; none if no lung-ct version was promoted."""
    if not any(
        entry["task"] == "lung-ct" and entry["decision"] == "promoted"
        for entry in results_page.version_decisions(story)
    ):
        return []
    story.wait("a served release", lambda: story.command("status")["live"], 120)
    with client(address(story), token) as connection:
        files = sorted((data / "chest-ct-tcga-luad-dicom").glob("*.dcm"))
        return [ask(connection, [path], "lung-ct") for path in files]


def cross_validate(story: Story, task: str) -> dict[str, Any]:
    """Figures of cross-validation over clusters, by the public command."""
    figures: dict[str, Any] = story.command("crossval", task, "--folds", str(FOLDS[task]))
    return figures


def cross_validate_by_image(workspace: Path, task: str) -> dict[str, Any]:
    """Figures of cross-validation with random folds by image: every image counts as its own patient."""
    from training.evaluation import cross_validation

    settings, units = load_units(workspace, task)
    ungrouped = dataclasses.replace(units, table=units.table.assign(cluster=units.table["unit_id"]))
    return cross_validation.cross_validate(
        ungrouped,
        settings.task(task),
        settings.fit_of(task),
        settings.calibrate,
        settings.evaluate,
        BY_IMAGE[task],
        workspace / "by-image" / task,
    )


def judge_texture(workspace: Path, task: str) -> dict[str, Any]:
    """Figures of the texture baseline in the folds by cluster."""
    settings, units = load_units(workspace, task)
    return texture_baseline.judge_by_texture(units, settings.task(task), settings.evaluate, FOLDS[task])


def load_units(workspace: Path, task: str) -> tuple[params.Params, Any]:
    """The settings of the workspace, and a task's preprocessed units."""
    from data.dataset import shards

    os.environ["ONCOLOOP_HOME"] = str(workspace / "var")
    return params.load(workspace), shards.load_units(workspace / "var" / "worktree" / "data" / "processed" / task)


if __name__ == "__main__":
    main()
