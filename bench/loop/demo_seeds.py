"""The demo over many seeds, without its servers: how often do the first models and the challenger pass?

    python bench/loop/demo_seeds.py                  seeds 1 to 10
    python bench/loop/demo_seeds.py --sham           the same with randomly permuted labels of the new scanner
    python bench/loop/demo_seeds.py --keep FILE      keep finished seeds there; an interrupted run continues from it

Phantom batches, de-identification, cohorts, shards, fit, evaluation, comparison and gate are the product's functions
with the shipped params.yaml. The baseline's AUROC is in brackets. `weights` is a digest of the weights of all models of
a seed: equal digests mean bit-identical fits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_seed(job: tuple[int, bool]) -> dict[str, Any]:
    """Run one seed: the first model of each task, then the challenger that also trains on the new scanner's batch."""
    from data.phantom import batch as phantom_batch
    from data.phantom import scanner as phantom_scanner
    from lineage import keys, paths
    from pipelines import params
    from pipelines.commands import demo

    seed, is_sham = job
    settings = params.load(ROOT)
    row: dict[str, Any] = {"seed": seed}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["ONCOLOOP_HOME"] = f"{scratch}/var"
        paths.set_environment()
        keys.create()
        for number, (name, scanner, patients, slices) in enumerate(demo.FIRST_BATCHES):
            batch, source = Path(scratch, name, "first"), Path(scratch, "inbox", name)
            task = settings.tasks[name]
            phantom_batch.write_batch(
                source, task, patients, phantom_scanner.SCANNERS[scanner], 10 * seed + number, slices
            )
            admit_batch(source, batch, task, settings, epoch=1)
            metrics, _ = fit_and_evaluate(batch.parent, task, settings, "1")
            verdict = judge_model(metrics, None, None, settings, f"{name}/1")
            baseline_auroc = metrics["baseline"]["auroc"]["value"]
            row[name] = f"{verdict.outcome.value} {metrics['test']['auroc']['value']:.3f} ({baseline_auroc:.3f})"
        task = settings.tasks[demo.WATCHED_TASK]
        source, folder = Path(scratch, "inbox", "shifted"), Path(scratch, demo.WATCHED_TASK)
        scanner = phantom_scanner.SCANNERS[demo.SHIFTED_SCANNER]
        phantom_batch.write_batch(
            source, task, demo.SHIFTED_PATIENTS, scanner, 10 * seed + 9, demo.SHIFTED_SLICES, sham=is_sham
        )
        admit_batch(source, folder / "shifted", task, settings, epoch=2)
        metrics, predictions = fit_and_evaluate(folder, task, settings, "2")
        verdict = judge_model(metrics, predictions, folder, settings, f"{task.name}/2")
        reports = [json.loads(path.read_text()) for path in sorted(Path(scratch).glob("*/model-*/fit.json"))]
        row["weights"] = hashlib.sha256("".join(report["weights_sha256"] for report in reports).encode()).hexdigest()[
            :12
        ]
    figures = verdict.to_dict()["figures"]["champion"]
    row["challenger"] = verdict.outcome.value
    newest = figures["cohorts"]["newest"]["auroc"]
    row["newest"] = f"{newest['challenger']:.3f} from {newest['rival']:.3f}"
    flips = figures["cohorts"]["anchor"]["sensitivity"]["mcnemar"]
    row["anchor"] = f"{flips['lost']} lost, {flips['won']} won"
    row["why"] = verdict.reasons[0]
    row["seconds"] = round(time.perf_counter() - start)
    return row


def admit_batch(source: Path, target: Path, task: Any, settings: Any, epoch: int) -> None:
    """De-identify and describe a batch, and assign its clusters to sides."""
    from data.batch import manifest as batch_manifest
    from data.dataset import cohorts as dataset_cohorts

    target.mkdir(parents=True)
    manifest = batch_manifest.index_batch(source, target, task, workers=1).manifest
    manifest.to_csv(target / "manifest.csv", index=False)
    cohorts = target.parent / "cohorts.csv"
    assigned = dataset_cohorts.read_cohorts(cohorts)
    dataset_cohorts.append_cohorts(
        cohorts, dataset_cohorts.assign_cohorts(manifest, assigned, settings.split, epoch, target.name, task)
    )


def fit_and_evaluate(folder: Path, task: Any, settings: Any, version: str) -> tuple[dict[str, Any], Any]:
    """Pack, fit and evaluate all admitted batches; the metrics and the predictions on the test side."""
    from data.dataset import cohorts as dataset_cohorts
    from data.dataset import shards as dataset_shards
    from training.evaluation import evaluate
    from training.fitting import fit

    shards, model, evaluation = (folder / f"{name}-{version}" for name in ("shards", "model", "evaluation"))
    batches = sorted(path.parent for path in folder.glob("*/manifest.csv"))
    dataset_shards.pack_shards(
        batches,
        dataset_cohorts.restore_cluster_names(dataset_cohorts.read_cohorts(folder / "cohorts.csv"), batches),
        task,
        shards,
        workers=1,
    )
    units = dataset_shards.load_units(shards)
    fit.fit(units, task, settings.fit_of(task.name), model)
    abstain_below = settings.serving.abstain_below
    evaluate.evaluate(units, task, model, settings.calibrate, settings.evaluate, evaluation, abstain_below)
    return json.loads((evaluation / "metrics.json").read_text()), evaluate.read_predictions(evaluation)


def judge_model(
    metrics: dict[str, Any], challenger_predictions: Any, folder: Path | None, settings: Any, subject: str
) -> Any:
    """The verdict of the training gate; the first model of `folder`, if there is one, is champion and anchor."""
    from data.dataset import shards as dataset_shards
    from training.evaluation import evaluate
    from training.promotion import comparison, gate

    comparison_with_champion = None
    if folder is not None:
        task = settings.tasks[subject.split("/")[0]]
        units = dataset_shards.load_units(folder / "shards-2")
        champion_predictions = evaluate.predict_held_out(
            units, registered_folder(folder), task, settings.serving.engine
        )
        comparison_with_champion = comparison.compare(
            challenger_predictions, champion_predictions, settings.promotion, "champion 1"
        )
    return gate.judge_challenger(
        subject, metrics, comparison_with_champion, comparison_with_champion, settings.promotion
    )


def registered_folder(folder: Path) -> Path:
    """The first model as registered: graph, linear layer and calibration in one folder."""
    import shutil

    registered = folder / "registered-1"
    for part in ("model-1", "evaluation-1"):
        shutil.copytree(folder / part, registered, dirs_exist_ok=True)
    return registered


def _limit_threads() -> None:
    """Let each process use one core, import the packages, and log errors only."""
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    logging.disable(logging.WARNING)
    sys.path.insert(0, str(ROOT))


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 11)))
    parser.add_argument("--sham", action="store_true", help="permute the labels of the new scanner")
    parser.add_argument("--keep", type=Path, help="a JSON file of finished seeds")
    parser.add_argument("--processes", type=int, default=2, help="seeds in parallel")
    parser.add_argument("--json", action="store_true", help="the figures alone, as JSON")
    arguments = parser.parse_args()
    is_resumed = arguments.keep is not None and arguments.keep.exists()
    rows = (
        [row for row in json.loads(arguments.keep.read_text()) if row["seed"] in arguments.seeds] if is_resumed else []
    )
    finished = {row["seed"] for row in rows}
    jobs = [(seed, arguments.sham) for seed in arguments.seeds if seed not in finished]
    with multiprocessing.get_context("spawn").Pool(arguments.processes, _limit_threads, maxtasksperchild=3) as pool:
        for row in pool.imap(run_seed, jobs):
            rows.append(row)
            sys.stderr.write(json.dumps(row) + "\n")
            if arguments.keep is not None:
                arguments.keep.write_text(json.dumps(rows, indent=1))
    passing_seeds = sum(
        all(str(row[part]).startswith("pass") for part in row if part.endswith(("-ct", "-mr", "ger"))) for row in rows
    )
    if arguments.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        import pandas as pd

        sys.stdout.write(pd.DataFrame(rows).drop(columns="why").to_string(index=False) + "\n")
        sys.stdout.write(f"{passing_seeds} of {len(rows)} seeds pass every gate of the story\n")


if __name__ == "__main__":
    main()
