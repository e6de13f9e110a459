"""The training gate at its limits: what each figure does to the verdict, from figures that pass."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from math import nextafter
from typing import Any

import pytest

from lineage.record.verdict import Outcome, Verdict
from training.promotion.gate import promote
from training.promotion.test_set_budget import Look, allowances

COHORTS = {"anchor": "anchor cohort", "newest": "newest test cohort", "overall": "whole test side"}
PASS, FAIL, OPEN = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE


def cohort(*batches: str) -> dict[str, Any]:
    """Figures of one cohort: a challenger that is better at everything."""
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


def slice_of(difference: float = 0.01, p: float = 0.6) -> dict[str, Any]:
    return {"status": "known", "difference": difference, "p_holm": p}


def passing(name: str = "champion 1") -> dict[str, Any]:
    return {
        "rival": name,
        "alpha": 0.05,
        "epochs": [1, 2],
        "cohorts": {"anchor": cohort("first"), "newest": cohort("second"), "overall": cohort("first", "second")},
        "slices": {"site north": slice_of(), "site south": slice_of()},
        "earlier": {"epoch 1": slice_of()},
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
        "clusters": 40,
        "positive_clusters": 16,
        "negative_clusters": 24,
    },
}


def changed(figures: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Figures with other values, each under its path with `/` between the keys; `cohorts` and `difference` unsaid."""
    figures = deepcopy(figures)
    for path, value in values.items():
        *way, last = path.split("/")
        inner = figures
        for key in way:
            inner = inner[key] if key in inner else inner["cohorts"][key]
        inner = inner if last in inner or "difference" not in inner else inner["difference"]
        assert last in inner or way == ["earlier"], path
        inner[last] = value
    return figures


def against(samples: Any, champion: dict[str, Any], anchor: dict[str, Any] | None = None, past: Any = ()) -> Verdict:
    return promote("lung-ct/2", METRICS, champion, anchor, samples.PROMOTION, past)


def first(samples: Any, values: dict[str, Any]) -> Verdict:
    return promote("lung-ct/1", changed(METRICS, values), None, None, samples.PROMOTION)


def test_a_challenger_that_is_better_at_everything_passes_and_the_reasons_say_at_what(samples: Any) -> None:
    verdict = against(samples, passing())
    assert verdict.outcome is PASS
    assert [reason.split(" (")[0] for reason in verdict.reasons if "baseline" not in reason] == [
        "test AUROC 0.900",
        "not inferior to champion 1 on the anchor cohort",
        "calibration is no worse: Brier score -0.010 against champion 1",
        "no slice of 2 is worse than with champion 1",
        "no earlier epoch or site of 1 is worse than with champion 1",
        "superior to champion 1 on the newest test cohort AUROC +0.050, p 1e-06 where look 1 of the year asks for "
        "0.012",
    ]
    assert set(verdict.figures) == {"auroc", "clusters", "positive_clusters", "looks", "champion", "anchor"}
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
        ({"test/sensitivity/value": 0.49, "test/sensitivity/high": 0.5}, OPEN, "sensitivity 0.490 (at most 0.500)"),
        ({"test/sensitivity/value": 0.48, "test/sensitivity/high": 0.49}, FAIL, "is under the floor of 0.5"),
        ({"test/sensitivity/value": 0.48, "test/sensitivity/high": None}, OPEN, "sensitivity 0.480 (at most unknown"),
        ({"test/sensitivity/value": None, "test/sensitivity/high": None}, PASS, "there is no champion to beat"),
        ({"test/auroc/low": 0.5001}, PASS, "there is no champion to beat"),
        ({"test/auroc/low": 0.5}, OPEN, "cannot be told from chance over 40 test clusters (lower bound 0.500)"),
        ({"test/auroc/low": None}, OPEN, "cannot be told from chance over 40 test clusters (lower bound unknown)"),
        ({"test/clusters": 10}, PASS, "there is no champion to beat"),
        ({"test/clusters": 9}, OPEN, "the test cohort has 9 clusters, and 10 are needed"),
        ({"test/positive_clusters": 4}, PASS, "there is no champion to beat"),
        ({"test/negative_clusters": 3}, OPEN, "the test cohort has 3 clusters with a negative unit, and 4 are needed"),
    ],
)
def test_a_first_model(samples: Any, values: dict[str, Any], outcome: Outcome, reason: str) -> None:
    verdict = first(samples, values)
    assert verdict.outcome is outcome
    assert any(reason in line for line in verdict.reasons), verdict.reasons


@pytest.mark.parametrize(
    ("values", "outcome", "reason"),
    [
        # Not inferior on the anchor cohort.
        ({"anchor/auroc/low": -0.0499}, PASS, "not inferior to champion 1 on the anchor cohort (difference"),
        (
            {"anchor/auroc/low": -0.05},
            OPEN,
            "the AUROC difference could be -0.050, the margin is -0.05; about 41 test clusters would be needed",
        ),
        ({"anchor/auroc/low": None}, OPEN, "the AUROC difference could be unknown"),
        ({"anchor/clusters": 10}, PASS, "not inferior"),
        ({"anchor/clusters": 9}, OPEN, "the anchor cohort has 9 clusters, and 10 are needed"),
        ({"anchor/positive_clusters": 3}, OPEN, "the anchor cohort has 3 clusters with a positive unit"),
        # Shown to be worse, on any cohort that is large enough.
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
        # Lost tumours, as they are seen and by McNemar's test.
        *(({f"{name}/sensitivity/value": -0.1}, PASS, "superior") for name in ("anchor", "overall")),
        (
            {"anchor/sensitivity/value": -0.101},
            OPEN,
            "sensitivity on the anchor cohort was -0.101 against "
            "champion 1 (1 patients with a tumour lost and 3 won, p 0.9), the margin is -0.1: read the lost cases",
        ),
        ({"overall/sensitivity/value": -0.101}, OPEN, "sensitivity on the whole test side was -0.101"),
        ({"anchor/sensitivity/mcnemar/p_worse": 0.0501}, PASS, "superior"),
        (
            {"anchor/sensitivity/mcnemar/p_worse": 0.05},
            OPEN,
            "the challenger finds fewer tumours than champion 1 on "
            "the anchor cohort (1 patients with a tumour lost and 3 won, p 0.05): read the lost cases",
        ),
        ({"overall/sensitivity/mcnemar": {"lost": 9, "won": 1, "p_worse": 0.01}}, OPEN, "on the whole test side (9 "),
        ({"overall/sensitivity/value": None, "overall/sensitivity/mcnemar/p_worse": 0.01}, PASS, "superior"),
        # Lost calibration.
        ({"overall/brier/high": 0.05}, PASS, "calibration is no worse: Brier score -0.010 against champion 1"),
        ({"overall/brier/high": 0.0501}, OPEN, "calibration could be worse by more than 0.05"),
        ({"overall/brier/high": None}, OPEN, "(-0.020 to unknown)"),
        ({"overall/brier/low": 0.05, "overall/brier/high": 0.06}, OPEN, "could be worse"),
        (
            {"overall/brier/low": 0.0501, "overall/brier/high": 0.06},
            FAIL,
            "calibration is worse by more than 0.05: Brier score -0.010",
        ),
        ({"overall/brier/low": None}, PASS, "calibration is no worse"),
        # A slice of the population, and what was learnt before.
        *(
            ({f"{family}/{name}": slice_of(difference, p)}, outcome, reason)
            for family, name in (("slices", "site north"), ("earlier", "epoch 1"))
            for difference, p, outcome, reason in (
                (-0.3, 0.0501, PASS, "is worse than with champion 1"),
                (-0.05, 0.05, OPEN, f"worse than that of champion 1 on {name} (-0.050, p 0.05 after Holm over "),
                (-0.0501, 0.05, FAIL, f"worse than that of champion 1 on {name} (-0.050, p 0.05 after Holm over "),
            )
        ),
        ({"slices/site south": {"status": "unknown"}}, PASS, "too few patients to tell: site south"),
        ({"earlier/site south before": {"status": "unknown"}}, PASS, "tell what is forgotten: site south before"),
    ],
)
def test_what_a_good_auroc_may_hide_decides(
    samples: Any, values: dict[str, Any], outcome: Outcome, reason: str
) -> None:
    verdict = against(samples, changed(passing(), values))
    assert verdict.outcome is outcome
    assert sum(reason in line for line in verdict.reasons) == 1 or outcome is PASS, verdict.reasons
    assert any(reason in line for line in verdict.reasons), verdict.reasons
    assert not any("None" in line for line in verdict.reasons)


def test_where_nobody_can_say_how_many_patients_would_do_no_number_is_asked_for(samples: Any) -> None:
    verdict = against(samples, changed(passing(), {"anchor/auroc/low": None, "anchor/auroc/error": None}))
    assert verdict.reasons[0].endswith("the AUROC difference could be unknown, the margin is -0.05")


@pytest.mark.parametrize("unknown", ["baseline/value", "baseline/low", "baseline/high", "test/auroc/value"])
def test_a_lead_over_the_baseline_that_is_not_known_is_no_lead(samples: Any, unknown: str) -> None:
    verdict = first(samples, {unknown: None})
    assert verdict.outcome is OPEN
    assert any("too few test patients to compare with the baseline" in reason for reason in verdict.reasons)


def test_a_slice_at_alpha_is_not_called_no_worse_as_well(samples: Any) -> None:
    verdict = against(samples, changed(passing(), {"slices/site north": slice_of(-0.01, 0.05)}))
    assert [reason[:11] for reason in verdict.reasons if "site north" in reason or "slice" in reason] == ["AUROC is wo"]
    nothing = against(samples, passing() | {"slices": {}, "earlier": {}})
    assert not any("slice" in reason or "earlier" in reason for reason in nothing.reasons)


def test_too_few_patients_on_the_whole_side_show_neither_harm_nor_gain(samples: Any) -> None:
    harmed = changed(
        passing(),
        {
            "overall/clusters": 9,
            "overall/sensitivity/value": -0.5,
            "overall/brier/low": 0.5,
            "overall/auroc/high": -0.5,
        },
    )
    verdict = against(samples, harmed)
    assert verdict.outcome is PASS
    assert not any("whole test side" in reason or "calibration" in reason for reason in verdict.reasons)


def test_one_harm_on_the_same_patients_is_said_once(samples: Any) -> None:
    same = passing() | {"epochs": [1]}
    same["cohorts"] = dict.fromkeys(
        ("anchor", "newest", "overall"), changed(cohort("first"), {"auroc/high": -0.2, "sensitivity/value": -0.2})
    )
    reasons = against(samples, same).reasons
    assert sum("AUROC is worse" in reason for reason in reasons) == 1
    assert sum("sensitivity on the" in reason for reason in reasons) == 1


HARMED = {
    "worse": {"newest/auroc/high": -0.2},
    "inferior": {"anchor/auroc/low": -0.2},
    "sensitivity": {"overall/sensitivity/value": -0.2},
    "calibration": {"overall/brier/low": 0.2},
    "slices": {"slices/site north": slice_of(-0.2, 0.001)},
}


@pytest.mark.parametrize("harm", HARMED)
def test_every_harm_counts_against_the_anchor_as_against_the_champion(samples: Any, harm: str) -> None:
    verdict = against(samples, passing(), changed(passing("anchor 1"), HARMED[harm]))
    assert verdict.outcome is not PASS
    assert "anchor 1" in verdict.reasons[0]


def test_an_anchor_that_is_the_champion_is_judged_once(samples: Any) -> None:
    harmed = changed(passing(), HARMED["calibration"])
    for anchor in (None, harmed | {"rival": "anchor 1"}):
        assert sum("calibration" in reason for reason in against(samples, harmed, anchor).reasons) == 1


def test_superiority_is_claimed_on_the_newest_cohort_or_overall_or_on_both_together(samples: Any) -> None:
    spent = allowances({"newest": ["second"], "overall": ["first", "second"]}, (), samples.PROMOTION)
    level, whole = spent["newest"].level, spent["newest"].whole
    other, above, beyond = spent["overall"].level, nextafter(level, 1), nextafter(whole, 1)
    newest, overall = "newest/auroc/p_better", "overall/auroc/p_better"
    for values, shown in (
        ({newest: level, overall: 1.0}, ["newest"]),
        ({newest: 1.0, overall: other}, ["overall"]),
        ({newest: level, overall: other}, ["newest"]),
        ({newest: whole, overall: whole}, ["newest", "overall"]),
        ({newest: above, overall: 1.0}, []),
        ({newest: beyond, overall: whole}, []),
        ({newest: whole, overall: beyond}, []),
        ({newest: None, overall: None}, []),
    ):
        verdict = against(samples, changed(passing(), values))
        assert verdict.outcome is (PASS if shown else OPEN), values
        reason = next(line for line in verdict.reasons if line.startswith(("superior", "not shown")))
        assert reason.startswith("superior") is bool(shown)
        assert ("on the newest test cohort AUROC" in reason) is ("newest" in shown or not shown)
        assert ("the whole test side AUROC" in reason) is ("overall" in shown or not shown)


def test_a_claim_without_a_p_value_or_a_budget_says_so(samples: Any) -> None:
    newest, overall = "newest/auroc/p_better", "overall/auroc/p_better"
    spent = [Look(f"lung-ct/{number}", ("first",), 0.0025) for number in range(20)]
    figures = changed(passing(), {newest: None, overall: 0.0})
    figures["cohorts"]["newest"]["auroc"]["difference"] |= {"value": -0.01}
    figures["cohorts"]["overall"]["auroc"]["difference"] |= {"error": 0.2}
    verdict = against(samples, figures, past=spent)
    assert verdict.outcome is OPEN
    assert verdict.reasons[0] == (
        "not shown to be better than champion 1: on the newest test cohort AUROC -0.010, p unknown where look 1 of the "
        "year asks for 0.023; on the whole test side AUROC +0.050, which has no budget left"
    )


def test_what_is_not_shown_asks_for_the_fewest_patients_that_would_show_it(samples: Any) -> None:
    weak = {f"{name}/auroc/p_better": 0.5 for name in ("newest", "overall")}
    errors = {"newest/auroc/error": 0.04, "overall/auroc/error": 0.08}
    asked = [
        against(samples, changed(passing(), weak | errors | more)).reasons[0].split("; about ")[1:]
        for more in ({}, {"newest/auroc/value": 0.0}, {"overall/auroc/value": 0.0})
    ]
    few, many, again = (int(told[0].split()[0]) for told in asked)
    assert few == again < many


def test_a_cohort_that_is_too_small_makes_no_claim(samples: Any) -> None:
    small = changed(passing(), {"newest/clusters": 9, "overall/auroc/p_better": 0.02})
    verdict = against(samples, small)
    assert verdict.outcome is PASS  # the whole side alone has the whole level of a first look, 0.023
    assert [look["cohort"] for look in verdict.figures["looks"]] == ["overall"]
    nothing = against(samples, changed(small, {"overall/negative_clusters": 3}))
    assert (nothing.outcome, nothing.figures["looks"]) == (OPEN, [])
    assert nothing.reasons[0] == (
        "not shown to be better than champion 1: the newest test cohort has 9 clusters, and 10 are needed; the whole "
        "test side has 3 clusters with a negative unit, and 4 are needed"
    )
    unsure = against(samples, changed(small, {"overall/auroc/p_better": 0.5}))
    assert "; the newest test cohort has 9 clusters, and 10 are needed" in unsure.reasons[0]


def test_before_a_second_epoch_there_is_one_cohort(samples: Any) -> None:
    verdict = against(samples, passing() | {"epochs": [1]})
    assert [look["cohort"] for look in verdict.figures["looks"]] == ["overall"]


def test_patients_who_have_decided_as_often_as_they_may_ask_for_fresh_ones(samples: Any) -> None:
    past = [Look(f"lung-ct/{number}", ("first", "second"), 0.001) for number in range(20)]
    verdict = against(samples, passing(), past=past)
    assert verdict.outcome is OPEN
    told = "these test patients have decided 20 times in a year and their budget of 0.05 is spent: admit a batch with"
    assert f"{told} fresh ones" in verdict.reasons
    settings = replace(samples.PROMOTION, looks_per_year=21)
    last = promote("lung-ct/2", METRICS, passing(), None, settings, past)
    assert not any("decided" in reason for reason in last.reasons)
