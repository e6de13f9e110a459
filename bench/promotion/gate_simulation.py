"""Simulation of the training gate: how often does it promote without a gain, and which gain does it need to pass?

    python bench/promotion/gate_simulation.py            everything, half an hour on 2 cores; writes
                                                         docs/explanation/training-gate.md
    python bench/promotion/gate_simulation.py --quick    a few chains, about a minute; prints, writes nothing
    python bench/promotion/gate_simulation.py --only baseline    only the baseline rule (baseline_rule.py), two minutes

Each chain is one test cohort of 400 patients, 30 % positive, and 20 retrainings within a year. Models are binormal
scores of a known true AUROC that share most of their noise, like two models of one task. Their answers are judged by
training/promotion/comparison.py, test_set_budget.py and gate.py with the shipped params.yaml and 400 bootstrap draws
instead of 2000. The gate is compared with two common rules: promote the higher score, and promote any challenger that
is not inferior to the last champion.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
START, PATIENTS, POSITIVE, RETRAININGS, DRAWS = 0.92, 400, 0.3, 20, 400
SHARED = 0.7  # share of a score's variance that two models have in common
SIZES = (60, 100, 200, 400, 800, 1600)
POWERED = ((0.92, 1), (0.85, 1), (0.85, 10))  # champion's AUROC, look of the year


@dataclass(frozen=True)
class Chain:
    """One chain: seed, change of true AUROC from champion to challenger (mean, deviation), slices per patient."""

    seed: int
    mean: float = 0.0
    deviation: float = 0.0
    slices: int = 1


@cache
def settings() -> Any:
    """The shipped promotion settings with fewer bootstrap draws."""
    from pipelines import params

    return replace(params.load(ROOT).promotion, bootstrap=DRAWS)


class Cohort:
    """Test patients: who has a tumour, the noise that all models share, and the facts that define subgroups."""

    def __init__(self, patients: int, random: np.random.Generator, slices: int = 1) -> None:
        self.random, units = random, patients * slices
        self.positive = np.repeat(random.permutation(patients) < round(POSITIVE * patients), slices)
        patient_noise = np.repeat(random.normal(size=patients), slices)
        unit_noise = random.normal(size=units)
        self.common = patient_noise if slices == 1 else np.sqrt(0.7) * patient_noise + np.sqrt(0.3) * unit_noise
        patient_of_unit = np.repeat(np.arange(patients), slices)
        facts = {"site": random.choice(["north", "south"], patients), "sex": random.choice(["F", "M"], patients)}
        self.facts = pd.DataFrame(
            {
                "unit_id": [f"u{index}" for index in range(units)],
                "cluster": [f"P{index}" for index in patient_of_unit],
                "side": "test",
                "epoch": 1,
                "batch": "first",
                "positive": self.positive.astype(int),
                **{name: values[patient_of_unit] for name, values in facts.items()},
            }
        )

    def judged(self, auroc: float) -> pd.DataFrame:
        """Answers of a model of this true AUROC: calibrated probabilities, flagged at a sensitivity of 0.90."""
        from scipy.special import expit, logit
        from scipy.stats import norm

        separation = np.sqrt(2) * norm.ppf(auroc)
        own_noise = self.random.normal(size=len(self.common))
        latent = separation * self.positive + np.sqrt(SHARED) * self.common + np.sqrt(1 - SHARED) * own_noise
        score = expit(separation * latent - separation**2 / 2 + logit(POSITIVE))
        return self.facts.assign(score=score, flagged=(latent >= separation + norm.ppf(0.10)).astype(int))


BASELINE_DIFFERENCE = {
    "value": 0.42,
    "low": 0.3,
    "high": 0.5,
}  # of a guessing baseline: simulated scores have no images
BASELINE = {"model": "chance", "difference": BASELINE_DIFFERENCE}


def metrics(judged: pd.DataFrame) -> dict[str, Any]:
    """The part of metrics.json that the gate reads, for these answers."""
    from training.statistics import bootstrap

    positive = judged["positive"].to_numpy(bool)
    draws = bootstrap.draw(judged["cluster"], 200, 7)
    clusters = judged["cluster"].nunique()
    figures = {
        "auroc": bootstrap.auroc(draws, judged["score"], positive),
        "sensitivity": draws.share(judged["flagged"], positive),
        "coverage": draws.share(np.ones(len(positive)), np.ones(len(positive))),  # nothing is withheld here
    }
    cluster_counts = {
        f"{name}_clusters": int(judged.loc[mask, "cluster"].nunique())
        for name, mask in (("positive", positive), ("negative", ~positive))
    }
    intervals = {name: bootstrap.interval(values, 0.95, clusters) for name, values in figures.items()}
    return {"test": {**intervals, **cluster_counts, "clusters": clusters}, "baseline": BASELINE}


def gate_verdict(
    challenger: pd.DataFrame, champion: pd.DataFrame, anchor: pd.DataFrame | None, past: Any, version: int
) -> Any:
    """The verdict of the product's comparison and gate."""
    from training.promotion import comparison, gate, test_set_budget

    decided = test_set_budget.decided_batches(past)
    champion_comparison = comparison.compare(challenger, champion, settings(), "champion", decided=decided)
    anchor_comparison = (
        champion_comparison
        if anchor is None
        else comparison.compare(challenger, anchor, settings(), "anchor", decided=decided)
    )
    return gate.judge_challenger(
        f"task/{version}", metrics(challenger), champion_comparison, anchor_comparison, settings(), past
    )


def by_gate(chain: Chain) -> list[tuple[float, float, int]]:
    """True and reported AUROC of the champion and number of promotions, after each retraining, with the gate."""
    from training.promotion import test_set_budget

    random = np.random.default_rng([chain.seed, 1])
    cohort = Cohort(PATIENTS, random, chain.slices)
    true_auroc, history = START, []
    anchor = champion = cohort.judged(true_auroc)
    verdicts, promoted = [], 0
    for number in range(RETRAININGS):
        moment = f"2026-{1 + number // 2:02d}-{1 + 14 * (number % 2):02d}T00:00:00Z"
        challenger_auroc = min(0.999, true_auroc + random.normal(chain.mean, chain.deviation))
        challenger = cohort.judged(challenger_auroc)
        past = test_set_budget.read_looks(verdicts, "task", moment)
        verdict = gate_verdict(challenger, champion, None if champion is anchor else anchor, past, number + 2)
        verdicts.append((moment, verdict.to_dict()))
        if verdict.outcome.value == "pass":
            true_auroc, champion, promoted = challenger_auroc, challenger, promoted + 1
        history.append((true_auroc, reported(champion), promoted))
    return history


def by_rule(chain: Chain, rule: str, margin: float = 0.0) -> list[tuple[float, float, int]]:
    """The same with a simple rule: `higher` AUROC on the cohort, or `last`: not inferior to the last champion."""
    from training.statistics import delong

    random = np.random.default_rng([chain.seed, 2])
    cohort = Cohort(PATIENTS, random, chain.slices)
    true_auroc, history = START, []
    champion, promoted = cohort.judged(true_auroc), 0
    for _ in range(RETRAININGS):
        challenger_auroc = min(0.999, true_auroc + random.normal(chain.mean, chain.deviation))
        challenger = cohort.judged(challenger_auroc)
        comparison = delong.compare_areas(
            challenger["score"], champion["score"], challenger["positive"], challenger["cluster"]
        )
        if comparison.difference > 0 if rule == "higher" else comparison.bound(settings().alpha, -1) > -margin:
            true_auroc, champion, promoted = challenger_auroc, challenger, promoted + 1
        history.append((true_auroc, reported(champion), promoted))
    return history


def reported(judged: pd.DataFrame) -> float:
    """The AUROC on the test cohort."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(judged["positive"], judged["score"]))


def sham(seed: int) -> str:
    """The outcome for a challenger fitted to permuted labels, against a champion fitted to the true ones."""
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng([seed, 3])
    weights = random.normal(size=20) * 0.45
    sides = []
    for count in (600, PATIENTS):
        has_tumour = random.uniform(size=count) < POSITIVE
        sides.append((random.normal(size=(count, 20)) + has_tumour[:, np.newaxis] * weights, has_tumour))
    (features, labels), (test_features, test_labels) = sides
    cohort = Cohort(PATIENTS, random)
    tables = []
    for training_labels in (random.permutation(labels), labels):
        score = LogisticRegression().fit(features, training_labels).predict_proba(test_features)[:, 1]
        flagged = (score >= np.quantile(score, 0.4)).astype(int)
        tables.append(cohort.facts.assign(positive=test_labels.astype(int), score=score, flagged=flagged))
    return str(gate_verdict(tables[0], tables[1], None, (), 2).outcome.value)


def passes(job: tuple[int, int, float, float, int]) -> bool:
    """Whether a challenger with this gain passes at this look of the year, on a cohort of this size."""
    from training.promotion.test_set_budget import Look

    seed, patients, start, gain, look = job
    cohort = Cohort(patients, np.random.default_rng([seed, patients, look]))
    champion, challenger = cohort.judged(start), cohort.judged(min(0.9995, start + gain))
    looks = tuple(Look(f"task/{number}", ("first",), 0.0) for number in range(2, look + 1))
    return str(gate_verdict(challenger, champion, None, looks, look + 1).outcome.value) == "pass"


def gain_needed(pool: Any, patients: int, start: float, look: int, repeats: int) -> float | None:
    """The smallest gain in AUROC that passes in 80 % of cohorts, by bisection; None if no gain does."""
    largest_gain = 0.9995 - start

    def pass_share(gain: float) -> float:
        return float(np.mean(pool.map(passes, [(seed, patients, start, gain, look) for seed in range(repeats)])))

    low, high = 0.0, min(largest_gain, 1.4 / np.sqrt(patients))
    if pass_share(high) < 0.8:
        low, high = high, largest_gain
        if pass_share(high) < 0.8:
            return None
    for _ in range(5):
        middle = (low + high) / 2
        low, high = (low, middle) if pass_share(middle) >= 0.8 else (middle, high)
    return float(high)


def simulations(pool: Any, quick: bool, scale: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and computation of every figure of docs/explanation/training-gate.md."""
    from bench.promotion import baseline_rule

    counts = {"equal": 8, "rule": 8, "clustered": 2, "worse": 4, "power": 8, "baseline": 10}
    if not quick:
        full_counts = {"equal": 300, "rule": 100, "clustered": 60, "worse": 80, "power": 40, "baseline": 200}
        counts = {name: scale * number for name, number in full_counts.items()}
    yield "baseline", partial(baseline_rule.simulate, pool, settings(), counts["baseline"])
    equal = [Chain(seed) for seed in range(counts["equal"])]
    clustered = [Chain(seed, slices=3) for seed in range(counts["clustered"])]
    worse = [Chain(seed, -0.01, 0.01) for seed in range(counts["worse"])]
    yield "equal, the gate", partial(summarise_chains, pool, by_gate, [(chain,) for chain in equal])
    yield "worse, the gate", partial(summarise_chains, pool, by_gate, [(chain,) for chain in worse])
    jobs = [(chain, "higher") for chain in equal[: counts["rule"]]]
    yield "equal, whatever scores higher", partial(summarise_chains, pool, by_rule, jobs)
    yield (
        "worse, whatever scores higher",
        partial(summarise_chains, pool, by_rule, [(chain, "higher") for chain in worse]),
    )
    for margin in (0.03, 0.05):
        jobs = [(chain, "last", margin) for chain in worse]
        yield f"worse, not inferior to the last champion by {margin:g}", partial(summarise_chains, pool, by_rule, jobs)
    yield "sham", lambda: pool.map(sham, range(20))
    for start, look in POWERED[: 1 if quick else 3]:
        for size in SIZES[: 2 if quick else None]:
            yield f"power {start} {look} {size}", partial(gain_needed, pool, size, start, look, counts["power"])
    yield (
        "equal with three slices a patient, the gate",
        partial(summarise_chains, pool, by_gate, [(chain,) for chain in clustered]),
    )


def summarise_chains(pool: Any, work: Any, jobs: list[Any]) -> dict[str, float]:
    """Figures of chains: share that promotes, optimism of the reported AUROC, share that ends below the anchor."""
    true_auroc, reported_auroc, promoted = np.array(pool.starmap(work, jobs, chunksize=2))[:, -1].T
    return {
        "chains": len(jobs),
        "promoting": float((promoted > 0).mean()),
        "promotions": float(promoted.mean()),
        "optimism": float((reported_auroc - true_auroc).mean()),
        "under": float((true_auroc <= START - 0.02).mean()),
        "true": float(true_auroc.mean()),
    }


def _limit_threads() -> None:
    """Let each process use one core, and import the packages."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    sys.path.insert(0, str(ROOT))


def main() -> None:
    """Run the simulations one by one; write the page, or with --quick print the figures only."""
    from bench.promotion import baseline_rule, gate_page

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few chains; no page is written")
    parser.add_argument("--scale", type=int, default=1, help="factor on the number of chains")
    parser.add_argument("--only", choices=["baseline"], help="only this part of the page")
    parser.add_argument(
        "--keep", type=Path, help="a JSON file of finished simulations, from which an interrupted run continues"
    )
    arguments = parser.parse_args()
    is_resumed = arguments.keep is not None and arguments.keep.exists()
    figures: dict[str, Any] = json.loads(arguments.keep.read_text()) if is_resumed else {}
    with multiprocessing.get_context("spawn").Pool(2, _limit_threads) as pool:
        for name, stage in simulations(pool, arguments.quick, arguments.scale):
            if name in figures or arguments.only not in (None, name):
                continue
            start = time.perf_counter()
            figures[name] = stage()
            sys.stderr.write(f"{time.perf_counter() - start:6.0f} s  {name}: {figures[name]}\n")
            if arguments.keep is not None:
                arguments.keep.write_text(json.dumps(figures, indent=1))
    if arguments.quick:
        sys.stdout.write(json.dumps(figures, indent=1) + "\n")
        return
    baseline_rule.write(ROOT / "docs" / "explanation" / "training-gate.md", figures.pop("baseline"))
    if arguments.only is None:
        gate_page.write(ROOT / "docs" / "explanation", figures)


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    sys.path.insert(0, str(ROOT))
    main()
