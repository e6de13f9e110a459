"""The demo's story over many seeds, without its servers: how often do the first models and the challenger pass?

    python bench/seeds.py                  seeds 1 to 10
    python bench/seeds.py --sham           the same with the new scanner's labels dealt out by chance
    python bench/seeds.py --keep FILE      finished seeds are kept there, and an interrupted run goes on

Phantom batches, de-identification, cohorts, shards, fit, evaluation, comparison and gate are the product's own
functions with the shipped params.yaml. In brackets stands the baseline's AUROC. `weights` is a digest of the weights of
all models of a seed: equal digests are equal fits, to the last bit.
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

ROOT = Path(__file__).resolve().parent.parent


def story(job: tuple[int, bool]) -> dict[str, Any]:
    """One seed: the first model of each task, then the challenger that also learned from the new scanner."""
    from data.phantom import batch as phantom_batch
    from data.phantom import scanner as phantom_scanner
    from lineage import keys, paths
    from pipelines import params
    from pipelines.commands import demo

    seed, sham = job
    settings = params.load(ROOT)
    row: dict[str, Any] = {"seed": seed}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["ONCOLOOP_HOME"] = f"{scratch}/var"
        paths.set_environment()
        keys.create()
        for number, (name, scanner, patients, slices) in enumerate(demo.FIRST):
            batch, source = Path(scratch, name, "first"), Path(scratch, "inbox", name)
            task = settings.tasks[name]
            phantom_batch.write_batch(
                source, task, patients, phantom_scanner.SCANNERS[scanner], 10 * seed + number, slices
            )
            admit(source, batch, task, settings, epoch=1)
            metrics, _ = learn(batch.parent, task, settings, "1")
            verdict = judge(metrics, None, None, settings, f"{name}/1")
            simple = metrics["baseline"]["auroc"]["value"]
            row[name] = f"{verdict.outcome.value} {metrics['test']['auroc']['value']:.3f} ({simple:.3f})"
        task = settings.tasks[demo.WATCHED]
        source, folder = Path(scratch, "inbox", "shifted"), Path(scratch, demo.WATCHED)
        scanner = phantom_scanner.SCANNERS[demo.SHIFTED_SCANNER]
        phantom_batch.write_batch(source, task, demo.SHIFTED, scanner, 10 * seed + 9, demo.SLICES, sham=sham)
        admit(source, folder / "shifted", task, settings, epoch=2)
        metrics, predictions = learn(folder, task, settings, "2")
        verdict = judge(metrics, predictions, folder, settings, f"{task.name}/2")
        reports = [json.loads(path.read_text()) for path in sorted(Path(scratch).glob("*/model-*/fit.json"))]
        row["weights"] = hashlib.sha256("".join(one["weights_sha256"] for one in reports).encode()).hexdigest()[:12]
    figures = verdict.to_dict()["figures"]["champion"]
    row["challenger"] = verdict.outcome.value
    newest = figures["cohorts"]["newest"]["auroc"]
    row["newest"] = f"{newest['challenger']:.3f} from {newest['rival']:.3f}"
    flips = figures["cohorts"]["anchor"]["sensitivity"]["mcnemar"]
    row["anchor"] = f"{flips['lost']} lost, {flips['won']} won"
    row["why"] = verdict.reasons[0]
    row["seconds"] = round(time.perf_counter() - began)
    return row


def admit(source: Path, target: Path, task: Any, settings: Any, epoch: int) -> None:
    """The batch de-identified and described, its clusters assigned to sides."""
    from data.batch import manifest as batch_manifest
    from data.dataset import cohorts as dataset_cohorts

    target.mkdir(parents=True)
    manifest = batch_manifest.index_batch(source, target, task, workers=1).manifest
    manifest.to_csv(target / "manifest.csv", index=False)
    cohorts = target.parent / "cohorts.csv"
    known = dataset_cohorts.read_cohorts(cohorts)
    dataset_cohorts.append_cohorts(
        cohorts, dataset_cohorts.assign(manifest, known, settings.split, epoch, target.name, task)
    )


def learn(folder: Path, task: Any, settings: Any, version: str) -> tuple[dict[str, Any], Any]:
    """Pack, fit and evaluate all that was admitted; metrics and predictions on the test side."""
    from data.dataset import cohorts as dataset_cohorts
    from data.dataset import shards as dataset_shards
    from training.evaluation import evaluate
    from training.fitting import fit

    shards, model, evaluation = (folder / f"{name}-{version}" for name in ("shards", "model", "evaluation"))
    admitted = sorted(path.parent for path in folder.glob("*/manifest.csv"))
    dataset_shards.pack(
        admitted,
        dataset_cohorts.named(dataset_cohorts.read_cohorts(folder / "cohorts.csv"), admitted),
        task,
        shards,
        workers=1,
    )
    units = dataset_shards.load(shards)
    fit.fit(units, task, settings.fit_of(task.name), model)
    evaluate.evaluate(units, task, model, settings.calibrate, settings.evaluate, evaluation)
    return json.loads((evaluation / "metrics.json").read_text()), evaluate.read_predictions(evaluation)


def judge(metrics: dict[str, Any], mine: Any, folder: Path | None, settings: Any, subject: str) -> Any:
    """The training gate; the first model of `folder`, if given, is champion and anchor at once."""
    from data.dataset import shards as dataset_shards
    from training.evaluation import evaluate
    from training.promotion import comparison, gate

    champion = None
    if folder is not None:
        task = settings.tasks[subject.split("/")[0]]
        units = dataset_shards.load(folder / "shards-2")
        theirs = evaluate.predictions(units, served(folder), task, settings.serving.engine)
        champion = comparison.compare(mine, theirs, settings.promotion, "champion 1")
    return gate.promote(subject, metrics, champion, champion, settings.promotion)


def served(folder: Path) -> Path:
    """The first model as it is registered: graph, linear layer and calibration in one folder."""
    import shutil

    whole = folder / "registered-1"
    for part in ("model-1", "evaluation-1"):
        shutil.copytree(folder / part, whole, dirs_exist_ok=True)
    return whole


def _alone() -> None:
    """One core for each process, and no chatter."""
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    logging.disable(logging.WARNING)
    sys.path.insert(0, str(ROOT))


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 11)))
    parser.add_argument("--sham", action="store_true", help="the new scanner's labels are permuted")
    parser.add_argument("--keep", type=Path, help="a JSON file of finished seeds")
    parser.add_argument("--processes", type=int, default=2, help="seeds side by side")
    parser.add_argument("--json", action="store_true", help="the figures alone, as JSON")
    arguments = parser.parse_args()
    kept = arguments.keep is not None and arguments.keep.exists()
    rows = [row for row in json.loads(arguments.keep.read_text()) if row["seed"] in arguments.seeds] if kept else []
    finished = {row["seed"] for row in rows}
    jobs = [(seed, arguments.sham) for seed in arguments.seeds if seed not in finished]
    with multiprocessing.get_context("spawn").Pool(arguments.processes, _alone, maxtasksperchild=3) as pool:
        for row in pool.imap(story, jobs):
            rows.append(row)
            sys.stderr.write(json.dumps(row) + "\n")
            if arguments.keep is not None:
                arguments.keep.write_text(json.dumps(rows, indent=1))
    whole = sum(
        all(str(row[part]).startswith("pass") for part in row if part.endswith(("-ct", "-mr", "ger"))) for row in rows
    )
    if arguments.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        import pandas as pd

        sys.stdout.write(pd.DataFrame(rows).drop(columns="why").to_string(index=False) + "\n")
        sys.stdout.write(f"{whole} of {len(rows)} seeds pass every gate of the story\n")


if __name__ == "__main__":
    main()
