"""The training gate at its limits: the effect of each value on the verdict, starting from passing figures."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from math import nextafter
from typing import Any

import pytest

from lineage.record.verdict import Outcome, Verdict
from training.promotion.gate import judge_challenger
from training.promotion.test_set_budget import Look, allowances

COHORTS = {"anchor": "anchor cohort", "newest": "newest test cohort", "overall": "whole test set"}
PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE


def cohort_figures(*batches: str) -> dict[str, Any]:
    """Figures of one cohort: the challenger is better in every metric."""
    gap = {"value": 0.05, "low": 0.02, "high": 0.08, "error": 0.02, "p_better": 1e-6, "p_worse": 1.0}
    return {
        "units": 80,
        "clusters": 40,
        "positive_clusters": 16,
        "negative_clusters": 24,
        "batches": list(batches),
        "auroc": {"challenger": 0.95, "rival": 0.90, "difference": dict(gap)},
        "sensitivity": {"difference": dict(gap), "mcnemar": {"lost": 1, "won": 3, "p_worse": 0.9, "p_better": 0.3}},
        "brier": {"difference": gap | {"value": -0.01, "low": -0.02, "high": 0.0}},
    }


def subgroup_row(difference: float = 0.01, p: float = 0.6) -> dict[str, Any]:
    return {"status": "known", "difference": difference, "p_holm": p}


def passing_figures(name: str = "champion 1") -> dict[str, Any]:
    return {
        "rival": name,
        "alpha": 0.05,
        "epochs": [1, 2],
        "cohorts": {
            "anchor": cohort_figures("first"),
            "newest": cohort_figures("second"),
            "overall": cohort_figures("first", "second"),
        },
        "slices": {"site north": subgroup_row(), "site south": subgroup_row()},
        "earlier": {"epoch 1": subgroup_row()},
    }


METRICS: dict[str, Any] = {
    "baseline": {
        "model": "logistic regression",
        "difference": {"value": 0.2, "low": 0.1, "high": 0.3},
        "difference_balanced_accuracy": {"value": 0.1, "low": 0.0, "high": 0.2},
    },
    "test": {
        "auroc": {"value": 0.9, "low": 0.8, "high": 1.0},
        "sensitivity": {"value": 0.9, "low": 0.7, "high": 1.0},
        "coverage": {"value": 0.9, "low": 0.8, "high": 1.0},
        "withheld": {"low confidence": 3, "several classes are possible": 5, "no class fits": 0},
        "clusters": 40,
        "positive_clusters": 16,
        "negative_clusters": 24,
    },
}


def with_values(figures: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Figures with changed values by path (keys joined by `/`, without `cohorts` and `difference`)."""
    figures = deepcopy(figures)
    for path, value in values.items():
        *keys, last = path.split("/")
        node = figures
        for key in keys:
            node = node[key] if key in node else node["cohorts"][key]
        node = node if last in node or "difference" not in node else node["difference"]
        assert last in node or keys == ["earlier"], path
        node[last] = value
    return figures


def judge_against(
    samples: Any, champion: dict[str, Any], anchor: dict[str, Any] | None = None, past: Any = ()
) -> Verdict:
    return judge_challenger("lung-ct/2", METRICS, champion, anchor, samples.PROMOTION, past)


def judge_first(samples: Any, values: dict[str, Any]) -> Verdict:
    return judge_challenger("lung-ct/1", with_values(METRICS, values), None, None, samples.PROMOTION)


def test_a_challenger_that_is_better_at_everything_passes_with_reasons(samples: Any) -> None:
    verdict = judge_against(samples, passing_figures())
    assert verdict.outcome is PASS
    assert [reason.split(" (")[0] for reason in verdict.reasons if "baseline" not in reason] == [
        "test AUROC 0.900",
        "the model would answer 0.900 of the test units",
        "not inferior to champion 1 on the anchor cohort",
        "calibration is no worse: Brier score -0.010 against champion 1",
        "no subgroup of 2 is worse than with champion 1",
        "no earlier epoch or site of 1 is worse than with champion 1",
        "superior to champion 1 on the newest test cohort AUROC +0.050, p 1e-06 where look 1 of the year requires "
        "0.012",
    ]
    assert set(verdict.figures) == {
        "auroc",
        "coverage",
        "clusters",
        "positive_clusters",
        "looks",
        "champion",
        "anchor",
    }
    assert (verdict.figures["clusters"], verdict.figures["positive_clusters"]) == (40, 16)
    assert verdict.thresholds["chance"] == 0.5
    looks = verdict.figures["looks"]
    assert [(look["cohort"], look["batches"], look["p"], look["value"]) for look in looks] == [
        ("newest", ["second"], 1e-6, 0.05),
        ("overall", ["first", "second"], 1e-6, 0.05),
    ]


@pytest.mark.parametrize(
    ("values", "outcome", "reason"),
    [
        ({"test/auroc/value": 0.60}, PASS, "test AUROC 0.600 (0.800 to 1.000 over 40 clusters), floor 0.6"),
        ({"test/auroc/value": 0.5999}, FAIL, "test AUROC 0.600 (0.800 to 1.000 over 40 clusters) is under the floor"),
        ({"test/sensitivity/value": 0.5, "test/sensitivity/high": 0.49}, PASS, "there is no champion to beat"),
        (
            {"test/sensitivity/value": 0.49, "test/sensitivity/high": 0.5},
            INCONCLUSIVE,
            "sensitivity 0.490 (at most 0.500)",
        ),
        ({"test/sensitivity/value": 0.48, "test/sensitivity/high": 0.49}, FAIL, "is under the floor of 0.5"),
        (
            {"test/sensitivity/value": 0.48, "test/sensitivity/high": None},
            INCONCLUSIVE,
            "sensitivity 0.480 (at most unknown",
        ),
        ({"test/sensitivity/value": None, "test/sensitivity/high": None}, PASS, "there is no champion to beat"),
        ({"test/auroc/low": 0.5001}, PASS, "there is no champion to beat"),
        (
            {"test/auroc/low": 0.5},
            INCONCLUSIVE,
            "is not distinguishable from chance over 40 test clusters (lower bound 0.500)",
        ),
        (
            {"test/auroc/low": None},
            INCONCLUSIVE,
            "is not distinguishable from chance over 40 test clusters (lower bound unknown)",
        ),
        ({"test/clusters": 10}, PASS, "there is no champion to beat"),
        ({"test/clusters": 9}, INCONCLUSIVE, "the test cohort has 9 clusters, and 10 are needed"),
        ({"test/positive_clusters": 4}, PASS, "there is no champion to beat"),
        (
            {"test/negative_clusters": 3},
            INCONCLUSIVE,
            "the test cohort has 3 clusters with a negative unit, and 4 are needed",
        ),
    ],
)
def test_a_first_model(samples: Any, values: dict[str, Any], outcome: Outcome, reason: str) -> None:
    verdict = judge_first(samples, values)
    assert verdict.outcome is outcome
    assert any(reason in line for line in verdict.reasons), verdict.reasons


@pytest.mark.parametrize(
    ("values", "outcome", "reason"),
    [
        # Not inferior on the anchor cohort.
        ({"anchor/auroc/low": -0.0499}, PASS, "not inferior to champion 1 on the anchor cohort (difference"),
        (
            {"anchor/auroc/low": -0.05},
            INCONCLUSIVE,
            "the AUROC difference could be -0.050, the margin is -0.05; about 41 test clusters would be needed",
        ),
        ({"anchor/auroc/low": None}, INCONCLUSIVE, "the AUROC difference could be unknown"),
        ({"anchor/clusters": 10}, PASS, "not inferior"),
        ({"anchor/clusters": 9}, INCONCLUSIVE, "the anchor cohort has 9 clusters, and 10 are needed"),
        ({"anchor/positive_clusters": 3}, INCONCLUSIVE, "the anchor cohort has 3 clusters with a positive unit"),
        # Significantly worse, on any cohort that is large enough.
        *(({f"{name}/auroc/high": -0.05}, PASS, "superior") for name in ("anchor", "newest", "overall")),
        *(
            (
                {f"{name}/auroc/high": -0.0501},
                FAIL,
                f"AUROC is worse than that of champion 1 by more than 0.05 on the {words} (difference at most -0.050)",
            )
            for name, words in COHORTS.items()
        ),
        ({"newest/sensitivity/high": -0.1}, PASS, "superior"),
        (
            {"newest/sensitivity/high": -0.101},
            FAIL,
            "sensitivity is worse than that of champion 1 by more "
            "than 0.1 on the newest test cohort (difference at most -0.101)",
        ),
        ({"newest/sensitivity/high": None}, PASS, "superior"),
        ({"newest/auroc/high": -0.2, "newest/clusters": 9}, PASS, "superior"),
        # Lost tumours, by the observed difference and by McNemar's test.
        *(({f"{name}/sensitivity/value": -0.1}, PASS, "superior") for name in ("anchor", "overall")),
        (
            {"anchor/sensitivity/value": -0.101},
            INCONCLUSIVE,
            "sensitivity on the anchor cohort was -0.101 against "
            "champion 1 (1 patients with a tumour lost and 3 won, p 0.9), the margin is -0.1: read the lost cases",
        ),
        ({"overall/sensitivity/value": -0.101}, INCONCLUSIVE, "sensitivity on the whole test set was -0.101"),
        ({"anchor/sensitivity/mcnemar/p_worse": 0.0501}, PASS, "superior"),
        (
            {"anchor/sensitivity/mcnemar/p_worse": 0.05},
            INCONCLUSIVE,
            "the challenger finds fewer tumours than champion 1 on "
            "the anchor cohort (1 patients with a tumour lost and 3 won, p 0.05): read the lost cases",
        ),
        (
            {"overall/sensitivity/mcnemar": {"lost": 9, "won": 1, "p_worse": 0.01}},
            INCONCLUSIVE,
            "on the whole test set (9 ",
        ),
        ({"overall/sensitivity/value": None, "overall/sensitivity/mcnemar/p_worse": 0.01}, PASS, "superior"),
        # Lost calibration.
        ({"overall/brier/high": 0.05}, PASS, "calibration is no worse: Brier score -0.010 against champion 1"),
        ({"overall/brier/high": 0.0501}, INCONCLUSIVE, "calibration could be worse by more than 0.05"),
        ({"overall/brier/high": None}, INCONCLUSIVE, "(-0.020 to unknown)"),
        ({"overall/brier/low": 0.05, "overall/brier/high": 0.06}, INCONCLUSIVE, "could be worse"),
        (
            {"overall/brier/low": 0.0501, "overall/brier/high": 0.06},
            FAIL,
            "calibration is worse by more than 0.05: Brier score -0.010",
        ),
        ({"overall/brier/low": None}, PASS, "calibration is no worse"),
        # Subgroups, and earlier data.
        *(
            ({f"{family}/{name}": subgroup_row(difference, p)}, outcome, reason)
            for family, name in (("slices", "site north"), ("earlier", "epoch 1"))
            for difference, p, outcome, reason in (
                (-0.3, 0.0501, PASS, "is worse than with champion 1"),
                (
                    -0.05,
                    0.05,
                    INCONCLUSIVE,
                    f"worse than that of champion 1 on {name} (-0.050, p 0.05 after Holm over ",
                ),
                (-0.0501, 0.05, FAIL, f"worse than that of champion 1 on {name} (-0.050, p 0.05 after Holm over "),
            )
        ),
        ({"slices/site south": {"status": "unknown"}}, PASS, "too few patients to tell: site south"),
        ({"earlier/site south before": {"status": "unknown"}}, PASS, "detect forgetting: site south before"),
    ],
)
def test_checks_beyond_auroc_decide(samples: Any, values: dict[str, Any], outcome: Outcome, reason: str) -> None:
    verdict = judge_against(samples, with_values(passing_figures(), values))
    assert verdict.outcome is outcome
    assert sum(reason in line for line in verdict.reasons) == 1 or outcome is PASS, verdict.reasons
    assert any(reason in line for line in verdict.reasons), verdict.reasons
    assert not any("None" in line for line in verdict.reasons)


def test_without_a_standard_error_no_needed_number_is_given(samples: Any) -> None:
    verdict = judge_against(
        samples, with_values(passing_figures(), {"anchor/auroc/low": None, "anchor/auroc/error": None})
    )
    assert verdict.reasons[0].endswith("the AUROC difference could be unknown, the margin is -0.05")


@pytest.mark.parametrize("unknown", ["baseline/value", "baseline/low", "baseline/high", "test/auroc/value"])
def test_an_unknown_lead_over_the_baseline_is_inconclusive(samples: Any, unknown: str) -> None:
    verdict = judge_first(samples, {unknown: None})
    assert verdict.outcome is INCONCLUSIVE
    assert any("too few test patients to compare with the baseline" in reason for reason in verdict.reasons)


def test_a_subgroup_at_alpha_is_only_reported_as_worse(samples: Any) -> None:
    verdict = judge_against(samples, with_values(passing_figures(), {"slices/site north": subgroup_row(-0.01, 0.05)}))
    assert [reason[:11] for reason in verdict.reasons if "site north" in reason or "subgroup" in reason] == [
        "AUROC is wo"
    ]
    without_subgroups = judge_against(samples, passing_figures() | {"slices": {}, "earlier": {}})
    assert not any("subgroup" in reason or "earlier" in reason for reason in without_subgroups.reasons)


def test_too_few_test_patients_show_neither_harm_nor_gain(samples: Any) -> None:
    harmed = with_values(
        passing_figures(),
        {
            "overall/clusters": 9,
            "overall/sensitivity/value": -0.5,
            "overall/brier/low": 0.5,
            "overall/auroc/high": -0.5,
        },
    )
    verdict = judge_against(samples, harmed)
    assert verdict.outcome is PASS
    assert not any("whole test set" in reason or "calibration" in reason for reason in verdict.reasons)


def test_one_harm_on_the_same_patients_is_reported_once(samples: Any) -> None:
    same_cohorts = passing_figures() | {"epochs": [1]}
    same_cohorts["cohorts"] = dict.fromkeys(
        ("anchor", "newest", "overall"),
        with_values(cohort_figures("first"), {"auroc/high": -0.2, "sensitivity/value": -0.2}),
    )
    reasons = judge_against(samples, same_cohorts).reasons
    assert sum("AUROC is worse" in reason for reason in reasons) == 1
    assert sum("sensitivity on the" in reason for reason in reasons) == 1


HARMS = {
    "worse": {"newest/auroc/high": -0.2},
    "inferior": {"anchor/auroc/low": -0.2},
    "sensitivity": {"overall/sensitivity/value": -0.2},
    "calibration": {"overall/brier/low": 0.2},
    "slices": {"slices/site north": subgroup_row(-0.2, 0.001)},
}


@pytest.mark.parametrize("harm", HARMS)
def test_every_harm_counts_against_the_anchor_as_against_the_champion(samples: Any, harm: str) -> None:
    verdict = judge_against(samples, passing_figures(), with_values(passing_figures("anchor 1"), HARMS[harm]))
    assert verdict.outcome is not PASS
    assert "anchor 1" in verdict.reasons[0]


def test_an_anchor_that_is_the_champion_is_judged_once(samples: Any) -> None:
    harmed = with_values(passing_figures(), HARMS["calibration"])
    for anchor in (None, harmed | {"rival": "anchor 1"}):
        assert sum("calibration" in reason for reason in judge_against(samples, harmed, anchor).reasons) == 1


def test_superiority_is_tested_on_the_newest_cohort_and_overall_and_jointly(samples: Any) -> None:
    allowed = allowances({"newest": ["second"], "overall": ["first", "second"]}, (), samples.PROMOTION)
    level, joint_level = allowed["newest"].level, allowed["newest"].whole
    overall_level, above_level, above_joint_level = (
        allowed["overall"].level,
        nextafter(level, 1),
        nextafter(joint_level, 1),
    )
    newest_path, overall_path = "newest/auroc/p_better", "overall/auroc/p_better"
    for values, established in (
        ({newest_path: level, overall_path: 1.0}, ["newest"]),
        ({newest_path: 1.0, overall_path: overall_level}, ["overall"]),
        ({newest_path: level, overall_path: overall_level}, ["newest"]),
        ({newest_path: joint_level, overall_path: joint_level}, ["newest", "overall"]),
        ({newest_path: above_level, overall_path: 1.0}, []),
        ({newest_path: above_joint_level, overall_path: joint_level}, []),
        ({newest_path: joint_level, overall_path: above_joint_level}, []),
        ({newest_path: None, overall_path: None}, []),
    ):
        verdict = judge_against(samples, with_values(passing_figures(), values))
        assert verdict.outcome is (PASS if established else INCONCLUSIVE), values
        reason = next(line for line in verdict.reasons if line.startswith(("superior", "not shown")))
        assert reason.startswith("superior") is bool(established)
        assert ("on the newest test cohort AUROC" in reason) is ("newest" in established or not established)
        assert ("the whole test set AUROC" in reason) is ("overall" in established or not established)


def test_a_claim_without_a_p_value_or_a_budget_has_a_reason(samples: Any) -> None:
    newest_path, overall_path = "newest/auroc/p_better", "overall/auroc/p_better"
    past = [Look(f"lung-ct/{number}", ("first",), 0.0025) for number in range(20)]
    figures = with_values(passing_figures(), {newest_path: None, overall_path: 0.0})
    figures["cohorts"]["newest"]["auroc"]["difference"] |= {"value": -0.01}
    figures["cohorts"]["overall"]["auroc"]["difference"] |= {"error": 0.2}
    verdict = judge_against(samples, figures, past=past)
    assert verdict.outcome is INCONCLUSIVE
    assert verdict.reasons[0] == (
        "not shown to be better than champion 1: on the newest test cohort AUROC -0.010, p unknown where look 1 of the "
        "year requires 0.023; on the whole test set AUROC +0.050, which has no budget left"
    )


def test_an_unproven_gain_names_the_smallest_needed_number(samples: Any) -> None:
    weak = {f"{name}/auroc/p_better": 0.5 for name in ("newest", "overall")}
    errors = {"newest/auroc/error": 0.04, "overall/auroc/error": 0.08}
    endings = [
        judge_against(samples, with_values(passing_figures(), weak | errors | changes)).reasons[0].split("; about ")[1:]
        for changes in ({}, {"newest/auroc/value": 0.0}, {"overall/auroc/value": 0.0})
    ]
    smallest, larger, without_overall_gain = (int(ending[0].split()[0]) for ending in endings)
    assert smallest == without_overall_gain < larger


def test_a_cohort_that_is_too_small_makes_no_claim(samples: Any) -> None:
    small_cohort = with_values(passing_figures(), {"newest/clusters": 9, "overall/auroc/p_better": 0.02})
    verdict = judge_against(samples, small_cohort)
    assert verdict.outcome is PASS  # one claim alone has the full level of a first look, 0.023
    assert [look["cohort"] for look in verdict.figures["looks"]] == ["overall"]
    no_cohort = judge_against(samples, with_values(small_cohort, {"overall/negative_clusters": 3}))
    assert (no_cohort.outcome, no_cohort.figures["looks"]) == (INCONCLUSIVE, [])
    assert no_cohort.reasons[0] == (
        "not shown to be better than champion 1: the newest test cohort has 9 clusters, and 10 are needed; the whole "
        "test set has 3 clusters with a negative unit, and 4 are needed"
    )
    no_gain = judge_against(samples, with_values(small_cohort, {"overall/auroc/p_better": 0.5}))
    assert "; the newest test cohort has 9 clusters, and 10 are needed" in no_gain.reasons[0]


def test_before_a_second_epoch_there_is_one_cohort(samples: Any) -> None:
    verdict = judge_against(samples, passing_figures() | {"epochs": [1]})
    assert [look["cohort"] for look in verdict.figures["looks"]] == ["overall"]


def test_a_spent_budget_needs_new_patients(samples: Any) -> None:
    past = [Look(f"lung-ct/{number}", ("first", "second"), 0.001) for number in range(20)]
    verdict = judge_against(samples, passing_figures(), past=past)
    assert verdict.outcome is INCONCLUSIVE
    message = (
        "these test patients were used in 20 verdicts of a year and their budget of 0.05 is spent: admit a batch with"
    )
    assert f"{message} new patients" in verdict.reasons
    settings = replace(samples.PROMOTION, looks_per_year=21)
    below_limit = judge_challenger("lung-ct/2", METRICS, passing_figures(), None, settings, past)
    assert not any("were used in" in reason for reason in below_limit.reasons)
