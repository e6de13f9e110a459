"""Writes docs/results.md from the figures of bench/loop/real_scans.py."""

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

ROOT = Path(__file__).resolve().parents[2]
CHEST = "TCGA-LUAD, Albertina et al. 2016, TCIA, doi 10.7937/K9/TCIA.2016.JGNIHEP5, CC BY 3.0"
CITATIONS = {
    "lung-ct": (
        "IQ-OTH/NCCD lung cancer dataset, Alyasriy and Al-Huseiny, Mendeley Data, doi 10.17632/bhmdr45bh2, CC BY 4.0"
    ),
    "brain-mr": (
        "Brain-Tumor-Progression, Schmainda and Prah 2018, TCIA, doi 10.7937/K9/TCIA.2018.15quzvnb, CC BY 3.0"
    ),
}
CAUTIONS = {
    "lung-ct": (
        "The groups are sets of near-duplicates, not patients. Fine texture without any anatomy separates malignant "
        "images from the others (column *texture alone*): images of one class share a scanner, a reconstruction or a "
        "contrast medium. In the gallery of the worst errors the heat maps are on the chest wall and outside the body, "
        "hardly in the lung. Most of those images are normal slices at the height of the heart, from few groups. No "
        "figure here shows that the network detects tumours; read them as an upper bound."
    ),
    "brain-mr": (
        "Seven patients, each left out once, all with a tumour and most after surgery. The figures are over slices; "
        "their intervals resample seven clusters and are rough. Most errors are false positives: the muscles and "
        "vessels of the skull base, the eyes and the highest gyri are as bright as an enhancing rim. Folds by image "
        "do no better: the network underfits its training side."
    ),
}
FIGURES = ("auroc", "sensitivity", "specificity", "balanced_accuracy", "accuracy")
PACKAGES = ("tensorflow", "keras", "openvino", "mlflow", "prefect", "dvc", "great-expectations", "bentoml", "evidently")
Figures = dict[str, Any]


def write(
    story: Story, figures: dict[str, Figures], recipes: Figures, answers: list[dict[str, Any]], seconds: float
) -> None:
    """Write docs/results.md. `figures` holds, for each task, the figures of `network`, `by image` and `texture`."""
    workspace = story.workspace
    settings = params.load(workspace)
    lines = [
        "# Results on real scans",
        "",
        "Written by `make real` (bench/loop/real_scans.py). Research use only. Every unit is judged once, by a network",
        "whose fit, early stopping and calibration never used its cluster (patient, or group of near-duplicates if",
        "patients are unknown). Every interval (95 %) resamples clusters, never images. The baseline is logistic",
        "regression on simple intensities in the same folds. *Texture alone* is logistic regression on local binary",
        "patterns, which contain no shape, position or size (bench/loop/texture_baseline.py): its figures are possible",
        "without detecting a tumour. *By image* are the figures of the same network if slices of one patient may be on",
        "both sides: the difference is leakage, not skill. Scores of different folds are of different networks. The",
        "fit settings of each set were chosen on these same folds, in some twenty tries, so the figures are slightly",
        "optimistic.",
        "",
        f"Whole run {seconds / 60:.1f} minutes on {os.cpu_count()} cores, backbone `{settings.fit.backbone}`, no "
        f"pretrained weights, seeds split {settings.split.seed}, fit {settings.fit.seed}, evaluate "
        f"{settings.evaluate.seed}. " + ", ".join(f"{name} {version(name)}" for name in PACKAGES) + ".",
        "",
    ]
    for task, citation in CITATIONS.items():
        recipe = json.dumps(recipes[task]) if recipes[task] else "as shipped"
        lines += [f"## {task}", "", f"Data: {citation}.", "", CAUTIONS[task], "", f"Fit: {recipe}.", ""]
        lines += [*_section(workspace, task, figures[task]), ""]
    lines += ["## pancreas-ct", "", "Phantoms only: there is no openly licensed set at hand. No figure is given.", ""]
    lines += [
        "## Chest CT of another source, on the served endpoint",
        "",
        f"Data: {CHEST}. No slice has a label.",
        "",
    ]
    lines += _chest_lines(answers)
    lines += ["", "## Durations", "", "| step | seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds_taken:.0f} |" for name, _, seconds_taken in story.happened]
    (ROOT / "docs" / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _section(workspace: Path, task: str, figures: Figures) -> Iterable[str]:
    """One task: its data, the figures of network, baselines and folds by image, and the gate's verdicts on versions."""
    network, by_image, texture = figures["network"], figures["by image"], figures["texture"]
    units = workspace / "var" / "worktree" / "data" / "processed" / task / "units.csv"
    table = pd.read_csv(units, dtype={"cluster": str})
    yield from ("| class | clusters | units |", "|---|---|---|")
    for label, part in table.groupby("label"):
        yield f"| {label} | {part['cluster'].nunique()} | {len(part)} |"
    yield from _import_remarks(workspace, table)
    yield from ("", f"{network['folds']} folds by cluster, {by_image['folds']} by image.", "")
    yield from ("| figure | network | baseline | texture alone | by image |", "|---|---|---|---|---|")
    for name in FIGURES:
        columns = (result.get(name) for result in (network["test"], network["baseline"], texture, by_image["test"]))
        yield f"| {name.replace('_', ' ')} | " + " | ".join(map(_interval_text, columns)) + " |"
    means = [f"{result['fold_auroc']['mean']:.3f}" for result in (network, network["baseline"], by_image)]
    yield f"| auroc, mean of the folds' own | {means[0]} | {means[1]} | | {means[2]} |"
    fold_aurocs = ("-" if value is None else f"{value:.2f}" for value in network["fold_auroc"]["each"])
    yield from ("", f"The network's AUROC fold by fold: {', '.join(fold_aurocs)}.")
    differences = [network["baseline"][name] for name in ("difference", "difference_balanced_accuracy")]
    yield from (
        "",
        f"Ahead of the baseline by {_interval_text(differences[0])} in AUROC, {_interval_text(differences[1])} in "
        "balanced accuracy.",
    )
    yield from (
        "",
        "Confusion (rows the truth, columns the answer): "
        + "; ".join(
            f"{label}: {', '.join(map(str, row))}"
            for label, row in zip(params.load(workspace).task(task).classes, network["test"]["confusion"], strict=True)
        )
        + ".",
    )
    yield from _heatmap_lines(workspace / "var" / "crossval" / task)
    for event in _task_decisions(workspace, task):
        yield from (
            "",
            f"In the loop, version {event['version']} on the fixed test side: the gate said "
            f"**{event['verdict']['outcome']}**, then {event['decision']}.",
        )
        yield from (f"- {reason}" for reason in event["verdict"]["reasons"])


def _heatmap_lines(folder: Path) -> Iterable[str]:
    """How often the maximum of a heat map is in the lesion, over all folds; nothing without masks."""
    hits = [
        json.loads(path.read_text(encoding="utf-8"))["maps"]["hits"]
        for path in sorted(folder.glob("fold-*/evaluation/metrics.json"))
    ]
    units = sum(fold["units"] for fold in hits if fold["value"] is not None)
    if units:
        hit, chance = (
            sum(fold[key] * fold["units"] for fold in hits if fold["value"] is not None) / units
            for key in ("value", "chance")
        )
        yield from (
            "",
            f"Heat maps: in {hit:.2f} of {units} slices with a lesion that were called positive, the maximum is in the "
            f"lesion or next to it; a random position reaches {chance:.2f}.",
        )


def _import_remarks(workspace: Path, table: pd.DataFrame) -> Iterable[str]:
    """Remarks of the import: blank slices, and groups with two labels."""
    for batch, rows in table.groupby("batch"):
        record = json.loads((workspace / "inbox" / str(batch) / "import.json").read_text(encoding="utf-8"))
        if blank := record.get("blank_slices_left_out"):
            yield from ("", f"{batch}: {blank} blank slices (padding) were left out.")
        if record["clusters_with_two_labels"]:
            for _, group in rows.groupby("cluster"):
                if group["label"].nunique() > 1:
                    labels, sides = (" and ".join(sorted(set(group[name]))) for name in ("label", "side"))
                    yield from ("", f"{batch}: one group has two labels ({labels}); it is on one side ({sides}).")


def _task_decisions(workspace: Path, task: str) -> list[dict[str, Any]]:
    """The gate's verdict on each version of a task."""
    return [entry for entry in version_decisions(Story(workspace, steps=1)) if entry["task"] == task]


def version_decisions(story: Story) -> list[dict[str, Any]]:
    """Every judged version with its verdict and the decision on it."""
    entries: list[dict[str, Any]] = story.command("status")["decisions"]
    return entries


def _interval_text(figure: Any) -> str:
    """A figure with its interval; "unknown" without a value."""
    if not isinstance(figure, dict) or figure.get("value") is None:
        return "unknown"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _chest_lines(answers: list[dict[str, Any]]) -> list[str]:
    """Counts of the answers to the chest slices."""
    if not answers:
        return ["No version of lung-ct was promoted, so no scan was sent."]
    answered = [answer for answer in answers if answer["verdict"]["outcome"] == "pass"]
    counts = {
        name: sum(answer["answer"] == name for answer in answered)
        for name in sorted({str(a["answer"]) for a in answered})
    }
    reasons: dict[str, int] = {}
    for answer in answers:
        if answer["verdict"]["outcome"] != "pass":
            for reason in answer["verdict"]["reasons"]:
                text = reason.split(":")[0].split("(")[0].strip()
                reasons[text] = reasons.get(text, 0) + 1
    lines = [
        f"{len(answers)} slices, each sent as its own patient: {len(answered)} answered, "
        f"{len(answers) - len(answered)} withheld."
    ]
    lines += [f"- answered {name}: {count}" for name, count in counts.items()]
    return lines + [f"- withheld, {reason}: {count}" for reason, count in reasons.items()]
