"""Simulation of site acceptance: are misses and false alarms at a new site what the operating point promises?

    python bench/promotion/site_simulation.py            the judging seeds, minutes on 2 cores; prints a table
    python bench/promotion/site_simulation.py --develop  the seeds on which the recipe was chosen

Each release has 200 validation patients, 40 % positive. Each of its sites shifts and scales the logit, and has its own
prevalence and correlation within a patient; 30 local patients with a label recalibrate it. 4,000 fresh patients of the
same site then give the misses and false alarms.

The operating point promises two shares of units (`promise` in training/evaluation/site_calibration.py). Misses are
1 - sensitivity, with the sensitivity that the task wants (0.90), or a larger one where the Youden index of the
release's validation patients is larger. False alarms are 1 - specificity of these patients at that point.

The stated interval of a site is that of training/evaluation/site_evaluation.py, two-sided at 95 % and cross-fitted on
the 30 patients. A site is worse than it says if its true sensitivity or specificity is under the lower bound.

Compared: the release's own threshold (no recalibration); the operating point of the shipped rule on the 30 patients
alone (plain rule); an oracle that knows the family and its shape without error, and estimates shift and scale from the
same 30 patients by maximum likelihood; and the threshold with exactly the promised misses, which knows the site (best
threshold).
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
Array = NDArray[np.float64]
SENSITIVITY = 0.90
VALIDATION_PATIENTS, VALIDATION_PREVALENCE = 200, 0.4
LOCAL_PATIENTS, FRESH_PATIENTS = 30, 4000
DEVELOP_SEED, JUDGE_SEED = 1, 20261130
SITES = 300
ABSTAIN_BELOW = 0.5
METHODS = ("site calibration", "no recalibration", "plain rule", "oracle", "best threshold")


@dataclass(frozen=True)
class Scenario:
    """A family of sites: AUROC of the release, shape of the logit, spread of the site effects, slices per patient."""

    name: str
    auroc: float = 0.95
    shape: str = "normal"
    shift: float = 1.0  # standard deviation of the shift, in deviations of the logit
    log_scale: float = 0.3
    separation: float = 0.0  # of a site's change in separation, in deviations of the logit
    slices: tuple[int, int] = (1, 4)


SCENARIOS = (
    Scenario("shift and scale"),
    Scenario("strong shift and scale", shift=2.0, log_scale=0.5),
    Scenario("weaker model", auroc=0.90),
    Scenario("stronger model", auroc=0.985),
    Scenario("skewed logits", shape="skewed"),
    Scenario("heavy tails", shape="heavy"),
    Scenario("separation differs", separation=0.3),
)


@dataclass(frozen=True)
class Site:
    """The effect of one site on the logit of the release, its prevalence and its correlation within a patient."""

    shift: float
    scale: float
    separation: float
    prevalence: float
    correlation: float

    def apply(self, logit: Array, positive: NDArray[np.bool_]) -> Array:
        """The logits of this site from those of the release."""
        return self.shift + self.scale * (logit + self.separation * positive)


HOME = Site(0.0, 1.0, 0.0, VALIDATION_PREVALENCE, 0.5)


def draw_site(scenario: Scenario, random: np.random.Generator) -> Site:
    """A site of this family."""
    return Site(
        shift=random.normal(0, scenario.shift),
        scale=float(np.exp(random.normal(0, scenario.log_scale))),
        separation=random.normal(0, scenario.separation),
        prevalence=random.uniform(0.25, 0.6),
        correlation=random.uniform(0.2, 0.8),
    )


def noise(shape: str, size: int, random: np.random.Generator) -> Array:
    """Independent noise of mean 0 and deviation 1 with this shape."""
    if shape == "skewed":
        return np.asarray((random.gamma(4.0, size=size) - 4) / 2)
    if shape == "heavy":
        return np.asarray(random.standard_t(4, size=size) / np.sqrt(2))
    return np.asarray(random.normal(size=size))


def patients(scenario: Scenario, site: Site, count: int, random: np.random.Generator) -> tuple[Any, Any, Any]:
    """Logits (n, 2) in float32, labels (n) and clusters (n) of patients of a site."""
    from scipy.stats import norm

    separation = np.sqrt(2) * norm.ppf(scenario.auroc)
    low, high = scenario.slices
    slices = random.integers(low, high + 1, count)
    positive = np.repeat(random.permutation(count) < max(1, round(site.prevalence * count)), slices)
    of_patient = np.repeat(noise(scenario.shape, count, random), slices)
    own = noise(scenario.shape, len(positive), random)
    latent = np.sqrt(site.correlation) * of_patient + np.sqrt(1 - site.correlation) * own
    logit = site.apply(latent + separation * (positive - 0.5), positive)
    clusters = np.repeat([f"P{index:04d}" for index in range(count)], slices)
    return np.column_stack([-logit, logit]).astype(np.float32) / 2, positive.astype(np.int64), clusters


@cache
def settings() -> tuple[Any, Any, Any]:
    """Task with a sensitivity of 0.90, calibration settings and evaluation settings of the shipped params.yaml."""
    from pipelines import params

    shipped = params.load(ROOT)
    task = dataclasses.replace(shipped.task("brain-mr"), sensitivity=SENSITIVITY)
    return task, shipped.calibrate, dataclasses.replace(shipped.evaluate, bootstrap=500)


def make_release(scenario: Scenario, random: np.random.Generator) -> dict[str, Any]:
    """The facts of a release, as `calibration.json` has them."""
    from serving.inference.predict import probabilities
    from training.evaluation import calibration, site_calibration

    task, calibrate, _ = settings()
    logits, labels, clusters = patients(scenario, HOME, VALIDATION_PATIENTS, random)
    release = calibration.calibrate(logits, labels, clusters, task, calibrate, "float32", {}).to_dict()
    scores = site_calibration.reference_scores(probabilities(logits, release["temperature"]), labels, clusters, task)
    return release | {"scores": scores}


def simulate(job: tuple[Scenario, int, int]) -> dict[str, Any]:
    """Misses and false alarms of each method at one site, beside what is promised and stated."""
    from scipy.special import expit

    from training.evaluation import calibration, site_calibration, site_evaluation

    scenario, base_seed, number = job
    random = np.random.default_rng([base_seed, SCENARIOS.index(scenario), number])
    task, calibrate, evaluate = settings()
    release = make_release(scenario, random)
    site = draw_site(scenario, random)
    logits, labels, clusters = patients(scenario, site, LOCAL_PATIENTS, random)
    fresh_logits, fresh_labels, _ = patients(scenario, site, FRESH_PATIENTS, random)
    fresh, is_positive = (fresh_logits[:, 1] - fresh_logits[:, 0]).astype(np.float64), fresh_labels == 1
    local, local_positive = (logits[:, 1] - logits[:, 0]).astype(np.float64), labels == 1
    calibrated = site_calibration.recalibrate(logits, labels, clusters, task, calibrate, release)
    metrics = site_evaluation.evaluate_site(logits, labels, clusters, task, calibrate, evaluate, release, ABSTAIN_BELOW)
    promised_misses = 1 - calibrated.promised["sensitivity"]
    edges = {
        "site calibration": calibrated.temperature * _logit(calibrated.threshold),
        "no recalibration": release["temperature"] * _logit(release["threshold"]),
        "plain rule": _logit(calibration.operating_point(expit(local), local_positive, SENSITIVITY)),
        "oracle": oracle(scenario, local, local_positive, clusters, promised_misses),
        "best threshold": float(np.quantile(fresh[is_positive], promised_misses)),
    }
    rates = {
        name: (float((fresh[is_positive] < edge).mean()), float((fresh[~is_positive] >= edge).mean()))
        for name, edge in edges.items()
    }
    misses, false_alarms = rates["site calibration"]
    _, _, reasons = site_evaluation.answer_units(fresh_logits, calibrated, task, ABSTAIN_BELOW)
    stated = {name: metrics[name]["low"] for name in ("sensitivity", "specificity")}
    return {
        "rates": rates,
        "promised": tuple(1 - share for share in calibrated.promised.values()),
        "keeps": all(
            low is None or true >= low
            for low, true in ((stated["sensitivity"], 1 - misses), (stated["specificity"], 1 - false_alarms))
        ),
        "stated": tuple(stated.values()),
        "coverage": float((reasons == "").mean()),
        "stated coverage": metrics["coverage"]["value"],
    }


def oracle(
    scenario: Scenario, local: Array, positive: NDArray[np.bool_], clusters: NDArray[np.str_], misses: float
) -> float:
    """The threshold for these misses, with shape and separation of the family known.

    Shift and scale by maximum likelihood. The correlation of the site is not known and taken as 0.5.
    """
    from scipy.optimize import minimize
    from scipy.stats import norm

    population = np.random.default_rng(0)
    logits, labels, _ = patients(scenario, HOME, 20000, population)
    home = (logits[:, 1] - logits[:, 0]).astype(np.float64)
    separation = np.sqrt(2) * norm.ppf(scenario.auroc)
    _, index, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    weights = 1 / (1 + (counts[index] - 1) * 0.5)
    residual_centre = separation * (positive - 0.5)

    def loss(parameters: Array) -> float:
        shift, log_scale = parameters
        residuals = (local - shift) / np.exp(log_scale) - residual_centre
        return float(weights @ (residuals**2 / 2 + log_scale))

    shift, log_scale = minimize(loss, np.zeros(2), method="Nelder-Mead").x
    return float(shift + np.exp(log_scale) * np.quantile(home[labels == 1], misses))


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def summarise(sites: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over sites in percentage points, and the share of sites that are no worse than stated."""
    promised = 100 * np.mean([site["promised"] for site in sites], axis=0)
    return {
        "promised": promised,
        "rates": {name: 100 * np.mean([site["rates"][name] for site in sites], axis=0) for name in METHODS},
        "spread": {name: 100 * np.std([site["rates"][name] for site in sites], axis=0) for name in METHODS},
        "keeps": float(np.mean([site["keeps"] for site in sites])),
        "coverage": float(np.mean([site["coverage"] for site in sites])),
        "stated coverage": float(np.mean([site["stated coverage"] for site in sites])),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """The summaries as a Markdown table, one row for each scenario."""
    columns = ("sites", "promised", *METHODS, "no worse than stated", "answered")
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, summary in results.items():
        pairs = [summary["promised"], *(summary["rates"][method] for method in METHODS)]
        cells = [f"{pair[0]:.1f} / {pair[1]:.1f}" for pair in pairs]
        tail = [f"{summary['keeps']:.1%}", f"{summary['coverage']:.0%}"]
        lines.append(f"| {' | '.join([name, *cells, *tail])} |")
    return "\n".join(lines)


def _limit_threads() -> None:
    """Let each process use one core, and import the packages."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    sys.path.insert(0, str(ROOT))


def main() -> None:
    """Simulate every scenario and print the table: misses / false alarms in percent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--develop", action="store_true", help="the seeds on which the recipe was chosen")
    parser.add_argument("--sites", type=int, default=SITES, help="sites in each scenario")
    arguments = parser.parse_args()
    base_seed = DEVELOP_SEED if arguments.develop else JUDGE_SEED
    results, every = {}, []
    with multiprocessing.get_context("spawn").Pool(2, _limit_threads) as pool:
        for scenario in SCENARIOS:
            sites = pool.map(simulate, [(scenario, base_seed, number) for number in range(arguments.sites)])
            results[scenario.name] = summarise(sites)
            every += sites
            sys.stderr.write(f"{scenario.name}: {results[scenario.name]}\n")
    results["all"] = summarise(every)
    sys.stdout.write(f"{table(results)}\n")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
