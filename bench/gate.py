"""What the training gate lets through when nothing got better, and what it takes to get through it.

    python bench/gate.py                   everything, about half an hour on 2 cores; writes its page and plot
    python bench/gate.py --quick           a few chains, about a minute; prints, writes nothing
    python bench/gate.py --only baseline   the table of the baseline rule alone (bench/gate_baseline.py), two minutes

Each chain is one test cohort of 400 patients, 30 % positive, and 20 retrainings within a year. Models are binormal
scores of a known true AUROC that share most of their noise, as two models of one task do; their answers go through
training/promotion/comparison.py, training/promotion/test_set_budget.py and training/promotion/gate.py with the
shipped params.yaml, 400 bootstrap draws
instead of 2000. Beside the gate stand two rules that people use: promote whatever scores higher, and promote
whatever is not inferior to the last champion.
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

ROOT = Path(__file__).resolve().parent.parent
START, PATIENTS, POSITIVE, RETRAININGS, DRAWS = 0.92, 400, 0.3, 20, 400
SHARED = 0.7  # of the variance of a score that two models have in common
SIZES = (60, 100, 200, 400, 800, 1600)
POWERED = ((0.92, 1), (0.85, 1), (0.85, 10))  # champion's AUROC, look of the year


@dataclass(frozen=True)
class Chain:
    """One chain: its seed, how the truth moves from champion to challenger (mean, deviation), slices a patient."""

    seed: int
    mean: float = 0.0
    deviation: float = 0.0
    slices: int = 1


@cache
def settings() -> Any:
    """The shipped promotion settings, with fewer draws."""
    from pipelines import params

    return replace(params.load(ROOT).promotion, bootstrap=DRAWS)


class Cohort:
    """Test patients: who has a tumour, what every model sees of them alike, and facts that make slices."""

    def __init__(self, patients: int, random: np.random.Generator, slices: int = 1) -> None:
        self.random, units = random, patients * slices
        self.positive = np.repeat(random.permutation(patients) < round(POSITIVE * patients), slices)
        of_patient = np.repeat(random.normal(size=patients), slices)
        within = random.normal(size=units)
        self.common = of_patient if slices == 1 else np.sqrt(0.7) * of_patient + np.sqrt(0.3) * within
        place = np.repeat(np.arange(patients), slices)
        facts = {"site": random.choice(["north", "south"], patients), "sex": random.choice(["F", "M"], patients)}
        self.facts = pd.DataFrame(
            {
                "unit_id": [f"u{index}" for index in range(units)],
                "cluster": [f"P{index}" for index in place],
                "side": "test",
                "epoch": 1,
                "batch": "first",
                "positive": self.positive.astype(int),
                **{name: values[place] for name, values in facts.items()},
            }
        )

    def judged(self, auroc: float) -> pd.DataFrame:
        """What a model of that true AUROC says: calibrated probabilities, flagged at a sensitivity of 0.90."""
        from scipy.special import expit, logit
        from scipy.stats import norm

        raised = np.sqrt(2) * norm.ppf(auroc)
        own = self.random.normal(size=len(self.common))
        seen = raised * self.positive + np.sqrt(SHARED) * self.common + np.sqrt(1 - SHARED) * own
        score = expit(raised * seen - raised**2 / 2 + logit(POSITIVE))
        return self.facts.assign(score=score, flagged=(seen >= raised + norm.ppf(0.10)).astype(int))


AHEAD = {"value": 0.42, "low": 0.3, "high": 0.5}  # of a baseline that guesses: scores by simulation have no pictures
BASELINE = {"model": "chance", "difference": AHEAD}


def metrics(judged: pd.DataFrame) -> dict[str, Any]:
    """The part of metrics.json that the gate reads."""
    from training.statistics import bootstrap

    positive = judged["positive"].to_numpy(bool)
    draws = bootstrap.draw(judged["cluster"], 200, 7)
    clusters = judged["cluster"].nunique()
    figures = {
        "auroc": bootstrap.auroc(draws, judged["score"], positive),
        "sensitivity": draws.share(judged["flagged"], positive),
    }
    held = {
        f"{name}_clusters": int(judged.loc[mask, "cluster"].nunique())
        for name, mask in (("positive", positive), ("negative", ~positive))
    }
    told = {name: bootstrap.interval(values, 0.95, clusters) for name, values in figures.items()}
    return {"test": {**told, **held, "clusters": clusters}, "baseline": BASELINE}


def verdict(mine: pd.DataFrame, champion: pd.DataFrame, anchor: pd.DataFrame | None, past: Any, version: int) -> Any:
    """The product's own comparison and gate."""
    from training.promotion import comparison, gate, test_set_budget

    seen = test_set_budget.decided(past)
    first = comparison.compare(mine, champion, settings(), "champion", decided=seen)
    other = first if anchor is None else comparison.compare(mine, anchor, settings(), "anchor", decided=seen)
    return gate.promote(f"task/{version}", metrics(mine), first, other, settings(), past)


def by_gate(chain: Chain) -> list[tuple[float, float, int]]:
    """True and reported AUROC of the champion, and promotions so far, after each retraining: by the gate."""
    from training.promotion import test_set_budget

    random = np.random.default_rng([chain.seed, 1])
    cohort = Cohort(PATIENTS, random, chain.slices)
    truth, told = START, []
    anchor = champion = cohort.judged(truth)
    verdicts, promoted = [], 0
    for number in range(RETRAININGS):
        at = f"2026-{1 + number // 2:02d}-{1 + 14 * (number % 2):02d}T00:00:00Z"
        new = min(0.999, truth + random.normal(chain.mean, chain.deviation))
        mine = cohort.judged(new)
        past = test_set_budget.looks(verdicts, "task", at)
        said = verdict(mine, champion, None if champion is anchor else anchor, past, number + 2)
        verdicts.append((at, said.to_dict()))
        if said.outcome.value == "pass":
            truth, champion, promoted = new, mine, promoted + 1
        told.append((truth, reported(champion), promoted))
    return told


def by_rule(chain: Chain, rule: str, margin: float = 0.0) -> list[tuple[float, float, int]]:
    """The same by a rule: `higher` AUROC on the cohort, or `last`: not inferior to the last champion."""
    from training.statistics import delong

    random = np.random.default_rng([chain.seed, 2])
    cohort = Cohort(PATIENTS, random, chain.slices)
    truth, told = START, []
    champion, promoted = cohort.judged(truth), 0
    for _ in range(RETRAININGS):
        new = min(0.999, truth + random.normal(chain.mean, chain.deviation))
        mine = cohort.judged(new)
        pair = delong.paired(mine["score"], champion["score"], mine["positive"], mine["cluster"])
        if pair.difference > 0 if rule == "higher" else pair.bound(settings().alpha, -1) > -margin:
            truth, champion, promoted = new, mine, promoted + 1
        told.append((truth, reported(champion), promoted))
    return told


def reported(judged: pd.DataFrame) -> float:
    """The AUROC that the test cohort shows."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(judged["positive"], judged["score"]))


def sham(seed: int) -> str:
    """A model fitted to permuted labels meets one fitted to the true ones, on the features of simulated patients."""
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng([seed, 3])
    weights = random.normal(size=20) * 0.45
    sides = []
    for count in (600, PATIENTS):
        truth = random.uniform(size=count) < POSITIVE
        sides.append((random.normal(size=(count, 20)) + truth[:, np.newaxis] * weights, truth))
    (seen, labels), (tested, truth) = sides
    cohort = Cohort(PATIENTS, random)
    tables = []
    for told in (random.permutation(labels), labels):
        score = LogisticRegression().fit(seen, told).predict_proba(tested)[:, 1]
        flagged = (score >= np.quantile(score, 0.4)).astype(int)
        tables.append(cohort.facts.assign(positive=truth.astype(int), score=score, flagged=flagged))
    return str(verdict(tables[0], tables[1], None, (), 2).outcome.value)


def passes(job: tuple[int, int, float, float, int]) -> bool:
    """Whether a challenger of that gain passes at the k-th look of the year at a cohort of that size."""
    from training.promotion.test_set_budget import Look

    seed, patients, start, gain, look = job
    cohort = Cohort(patients, np.random.default_rng([seed, patients, look]))
    champion, mine = cohort.judged(start), cohort.judged(min(0.9995, start + gain))
    past = tuple(Look(f"task/{number}", ("first",), 0.0) for number in range(2, look + 1))
    return str(verdict(mine, champion, None, past, look + 1).outcome.value) == "pass"


def gain_needed(pool: Any, patients: int, start: float, look: int, repeats: int) -> float | None:
    """The smallest gain in AUROC that passes in 80 % of cohorts, by halving; None if no gain does."""
    most = 0.9995 - start

    def power(gain: float) -> float:
        return float(np.mean(pool.map(passes, [(seed, patients, start, gain, look) for seed in range(repeats)])))

    low, high = 0.0, min(most, 1.4 / np.sqrt(patients))
    if power(high) < 0.8:
        low, high = high, most
        if power(high) < 0.8:
            return None
    for _ in range(5):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= 0.8 else (middle, high)
    return float(high)


def stages(pool: Any, quick: bool, scale: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every figure of the document, by name, and how it is made."""
    import gate_baseline

    count = {"equal": 8, "rule": 8, "clustered": 2, "worse": 4, "power": 8, "baseline": 10}
    if not quick:
        whole = {"equal": 300, "rule": 100, "clustered": 60, "worse": 80, "power": 40, "baseline": 200}
        count = {name: scale * number for name, number in whole.items()}
    yield "baseline", partial(gate_baseline.stage, pool, settings(), count["baseline"])
    equal = [Chain(seed) for seed in range(count["equal"])]
    clustered = [Chain(seed, slices=3) for seed in range(count["clustered"])]
    worse = [Chain(seed, -0.01, 0.01) for seed in range(count["worse"])]
    yield "equal, the gate", partial(chained, pool, by_gate, [(chain,) for chain in equal])
    yield "worse, the gate", partial(chained, pool, by_gate, [(chain,) for chain in worse])
    jobs = [(chain, "higher") for chain in equal[: count["rule"]]]
    yield "equal, whatever scores higher", partial(chained, pool, by_rule, jobs)
    yield "worse, whatever scores higher", partial(chained, pool, by_rule, [(chain, "higher") for chain in worse])
    for margin in (0.03, 0.05):
        jobs = [(chain, "last", margin) for chain in worse]
        yield f"worse, not inferior to the last champion by {margin:g}", partial(chained, pool, by_rule, jobs)
    yield "sham", lambda: pool.map(sham, range(20))
    for start, look in POWERED[: 1 if quick else 3]:
        for size in SIZES[: 2 if quick else None]:
            yield f"power {start} {look} {size}", partial(gain_needed, pool, size, start, look, count["power"])
    yield "equal with three slices a patient, the gate", partial(chained, pool, by_gate, [(one,) for one in clustered])


def chained(pool: Any, work: Any, jobs: list[Any]) -> dict[str, float]:
    """Figures of chains: how many promote, what is reported too much, how many sink."""
    truth, seen, promoted = np.array(pool.starmap(work, jobs, chunksize=2))[:, -1].T
    return {
        "chains": len(jobs),
        "promoting": float((promoted > 0).mean()),
        "promotions": float(promoted.mean()),
        "optimism": float((seen - truth).mean()),
        "under": float((truth <= START - 0.02).mean()),
        "true": float(truth.mean()),
    }


def _alone() -> None:
    """One core for each process."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    sys.path.insert(0, str(ROOT))


def main() -> None:
    """Run the simulations, stage by stage; write the page, or with --quick print the figures alone."""
    import gate_baseline
    import gate_page

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few chains; no page is written")
    parser.add_argument("--scale", type=int, default=1, help="so many times more chains")
    parser.add_argument("--only", choices=["baseline"], help="that part of the page alone")
    parser.add_argument("--keep", type=Path, help="a JSON file of finished stages: an interrupted run goes on from it")
    arguments = parser.parse_args()
    kept = arguments.keep is not None and arguments.keep.exists()
    figures: dict[str, Any] = json.loads(arguments.keep.read_text()) if kept else {}
    with multiprocessing.get_context("spawn").Pool(2, _alone) as pool:
        for name, stage in stages(pool, arguments.quick, arguments.scale):
            if name in figures or arguments.only not in (None, name):
                continue
            began = time.perf_counter()
            figures[name] = stage()
            sys.stderr.write(f"{time.perf_counter() - began:6.0f} s  {name}: {figures[name]}\n")
            if arguments.keep is not None:
                arguments.keep.write_text(json.dumps(figures, indent=1))
    if arguments.quick:
        sys.stdout.write(json.dumps(figures, indent=1) + "\n")
        return
    gate_baseline.write(ROOT / "docs" / "explanation" / "training-gate.md", figures.pop("baseline"))
    if arguments.only is None:
        gate_page.write(ROOT / "docs" / "explanation", figures)


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    sys.path.insert(0, str(ROOT))
    main()
