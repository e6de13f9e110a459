"""The page that bench/real.py writes: docs/results.md, out of what the run found."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines import params
from pipelines.commands.demo_console import Story

ROOT = Path(__file__).resolve().parent.parent
CHEST = "TCGA-LUAD, Albertina et al. 2016, TCIA, doi 10.7937/K9/TCIA.2016.JGNIHEP5, CC BY 3.0"
SETS = {
    "lung-ct": (
        "IQ-OTH/NCCD lung cancer dataset, Alyasriy and Al-Huseiny, Mendeley Data, doi 10.17632/bhmdr45bh2, CC BY 4.0"
    ),
    "brain-mr": (
        "Brain-Tumor-Progression, Schmainda and Prah 2018, TCIA, doi 10.7937/K9/TCIA.2018.15quzvnb, CC BY 3.0"
    ),
}
CAUTION = {
    "lung-ct": (
        "The groups are near-duplicates put together, not patients. The finest texture, which knows no "
        "anatomy, tells malignant pictures from the others (column *texture alone*): those of one class share "
        "a scanner, a reconstruction or a contrast medium. In the gallery of the worst errors the heat maps "
        "lie on the chest wall and beside the body, hardly in the lung; most of those are normal slices at "
        "the height of the heart, of few groups. No figure here shows that a tumour was seen; read them as an "
        "upper bound."
    ),
    "brain-mr": (
        "Seven patients, each left out once, all with a tumour and most operated on: figures are over slices, "
        "their intervals resample seven clusters and are rough. Most errors are slices without a tumour that "
        "are called one: the muscles and vessels of the skull base, the eyes and the highest gyri are as "
        "light as an enhancing rim. Folds by image do no better: the network has not learned its training "
        "side to the end."
    ),
}
FIGURES = ("auroc", "sensitivity", "specificity", "balanced_accuracy", "accuracy")
PACKAGES = ("tensorflow", "keras", "openvino", "mlflow", "prefect", "dvc", "great-expectations", "bentoml", "evidently")
Found = dict[str, Any]


def write(story: Story, found: dict[str, Found], recipes: Found, answers: list[dict[str, Any]], seconds: float) -> None:
    """docs/results.md. `found` holds for each task what `network`, `by image` and `texture` reached."""
    workspace = story.workspace
    settings = params.load(workspace)
    lines = [
        "# Results on real scans",
        "",
        "Written by `make real` (bench/real.py). Research use only. Every unit is judged once, by a network whose fit,",
        "early stop and calibration never saw its cluster (patient, or group of near-duplicates if patients are",
        "unknown). Every interval (95 %) resamples clusters, never images; the baseline is logistic regression on",
        "simple intensities, in the same folds. *Texture alone* is logistic regression on local binary patterns, which",
        "know no shape, place or size (bench/texture.py): what it reaches needs no tumour to be seen. *By image* is",
        "what the same network seems to reach when slices of one patient may fall on both sides: leakage, not skill.",
        "Scores of different folds are of different networks. The fit of each set was chosen while the figures of",
        "these same folds were looked at, some twenty tries: a little of them is luck.",
        "",
        f"Whole run {seconds / 60:.1f} minutes on {os.cpu_count()} cores, backbone `{settings.fit.backbone}`, no "
        f"pretrained weights, seeds split {settings.split.seed}, fit {settings.fit.seed}, evaluate "
        f"{settings.evaluate.seed}. " + ", ".join(f"{name} {version(name)}" for name in PACKAGES) + ".",
        "",
    ]
    for task, citation in SETS.items():
        told = json.dumps(recipes[task]) if recipes[task] else "as shipped"
        lines += [f"## {task}", "", f"Data: {citation}.", "", CAUTION[task], "", f"Fit: {told}.", ""]
        lines += [*section(workspace, task, found[task]), ""]
    lines += ["## pancreas-ct", "", "Phantoms only: there is no openly licensed set at hand. No figure is given.", ""]
    lines += [
        "## Chest CT from elsewhere, through the served endpoint",
        "",
        f"Data: {CHEST}. No slice has a label.",
        "",
    ]
    lines += said(answers)
    lines += ["", "## Durations", "", "| step | seconds |", "|---|---|"]
    lines += [f"| {name} | {took:.0f} |" for name, _, took in story.happened]
    (ROOT / "docs" / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def section(workspace: Path, task: str, found: Found) -> Iterable[str]:
    """One task: what there is, the figures beside baseline and probes, then the gate's word on the loop's versions."""
    network, by_image, texture = found["network"], found["by image"], found["texture"]
    units = workspace / "var" / "worktree" / "data" / "processed" / task / "units.csv"
    table = pd.read_csv(units, dtype={"cluster": str})
    yield from ("| class | clusters | units |", "|---|---|---|")
    for label, part in table.groupby("label"):
        yield f"| {label} | {part['cluster'].nunique()} | {len(part)} |"
    yield from remarks(workspace, table)
    yield from ("", f"{network['folds']} folds by cluster, {by_image['folds']} by image.", "")
    yield from ("| figure | network | baseline | texture alone | by image |", "|---|---|---|---|---|")
    for name in FIGURES:
        columns = (one.get(name) for one in (network["test"], network["baseline"], texture, by_image["test"]))
        yield f"| {name.replace('_', ' ')} | " + " | ".join(map(shown, columns)) + " |"
    means = [f"{one['fold_auroc']['mean']:.3f}" for one in (network, network["baseline"], by_image)]
    yield f"| auroc, mean of the folds' own | {means[0]} | {means[1]} | | {means[2]} |"
    each = ("-" if value is None else f"{value:.2f}" for value in network["fold_auroc"]["each"])
    yield from ("", f"The network's AUROC fold by fold: {', '.join(each)}.")
    gaps = [network["baseline"][name] for name in ("difference", "difference_balanced_accuracy")]
    yield from ("", f"Ahead of the baseline by {shown(gaps[0])} in AUROC, {shown(gaps[1])} in balanced accuracy.")
    yield from (
        "",
        "Confusion (rows the truth, columns the answer): "
        + "; ".join(
            f"{label}: {', '.join(map(str, row))}"
            for label, row in zip(params.load(workspace).task(task).classes, network["test"]["confusion"], strict=True)
        )
        + ".",
    )
    yield from pointing(workspace / "var" / "crossval" / task)
    for event in decisions(workspace, task):
        yield from (
            "",
            f"In the loop, version {event['version']} on the fixed test side: the gate said "
            f"**{event['verdict']['outcome']}**, then {event['decision']}.",
        )
        yield from (f"- {reason}" for reason in event["verdict"]["reasons"])


def pointing(folder: Path) -> Iterable[str]:
    """How often the hottest place of a heat map lay in the lesion, over all folds; nothing without masks."""
    told = [
        json.loads(path.read_text(encoding="utf-8"))["maps"]["hits"]
        for path in sorted(folder.glob("fold-*/evaluation/metrics.json"))
    ]
    units = sum(one["units"] for one in told if one["value"] is not None)
    if units:
        hit, chance = (
            sum(one[key] * one["units"] for one in told if one["value"] is not None) / units
            for key in ("value", "chance")
        )
        yield from (
            "",
            f"Heat maps: of {units} slices with a lesion that were called positive, the hottest place lay "
            f"in it or beside it in {hit:.2f}; pointing blindly reaches {chance:.2f}.",
        )


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


def said(answers: list[dict[str, Any]]) -> list[str]:
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
