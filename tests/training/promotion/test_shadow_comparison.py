"""The shadow gate on pairs of answers whose truth is known by construction."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lineage.record.verdict import Outcome, Verdict
from training.promotion import shadow_comparison
from training.settings import ShadowSettings

SETTINGS = ShadowSettings(bootstrap=400)


def pairs(patients: int = 40, each: int = 3, **changed: object) -> pd.DataFrame:
    """The same answers from both; every third patient has a tumour, and the truth is known."""
    sick = np.repeat(np.arange(patients) % 3 == 0, each)
    said = np.where(sick, "tumour", "normal").astype(object)
    table = pd.DataFrame(
        {
            "cluster": np.repeat([f"p{number}" for number in range(patients)], each),
            "live": said,
            "dark": said,
            "live_score": sick * 0.8 + 0.1,
            "dark_score": sick * 0.8 + 0.1,
            "live_ms": 10.0,
            "dark_ms": 12.0,
            "label": said,
        }
    )
    return table.assign(**changed)


def judged(table: pd.DataFrame, unpaired: int = 0) -> Verdict:
    return shadow_comparison.compare("lung-ct/4 in shadow", table, unpaired, ("tumour",), SETTINGS)


def test_the_same_answers_pass() -> None:
    verdict = judged(pairs(), unpaired=2)
    assert verdict.outcome is Outcome.PASS and verdict.gate == "shadow"
    assert (verdict.figures["pairs"], verdict.figures["clusters"], verdict.figures["unpaired"]) == (120, 40, 2)
    assert verdict.figures["agreement"]["value"] == 1.0 and verdict.figures["slower"] == 1.2


def test_few_patients_are_inconclusive_however_many_slices_they_have() -> None:
    verdict = judged(pairs(patients=6, each=200))
    assert verdict.outcome is Outcome.INCONCLUSIVE and "6 clusters" in verdict.reasons[0]


def test_nothing_seen_is_inconclusive() -> None:
    verdict = judged(pairs().iloc[:0], unpaired=9)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.figures["agreement"]["value"] is None and verdict.figures["unpaired"] == 9


def test_other_answers_fail_and_the_reason_says_so() -> None:
    flipped = pairs()
    flipped.loc[flipped["cluster"].str.endswith(("0", "1", "2", "3", "4")), "dark"] = "normal"
    flipped.loc[flipped["cluster"].str.endswith(("5", "6")), "dark"] = "tumour"
    verdict = judged(flipped)
    assert verdict.outcome is Outcome.FAIL and "agree" in " ".join(verdict.reasons)
    assert verdict.figures["labelled"]["shadow_wrong"] > verdict.figures["labelled"]["live_wrong"] == 0


def test_a_shadow_that_withholds_what_the_champion_answers_fails() -> None:
    silent = pairs()
    silent.loc[silent["cluster"].str.endswith(("1", "2", "3")), "dark"] = None
    verdict = judged(silent)
    assert verdict.outcome is Outcome.FAIL
    assert any(reason.startswith("more is withheld") for reason in verdict.reasons)
    assert verdict.figures["withheld"]["live"] == 0.0 and 0.2 < verdict.figures["withheld"]["shadow"] < 0.4


def test_one_patient_with_many_slices_decides_nothing() -> None:
    """Half of all slices differ, but they are one patient's: by cluster that is not shown to be less than asked."""
    crowd = pd.concat([pairs(patients=40, each=1), pairs(patients=1, each=40, cluster="one", dark="normal")])
    assert judged(crowd).outcome is Outcome.INCONCLUSIVE


def test_late_labels_count_where_they_are_known() -> None:
    table = pairs(label=None)
    assert judged(table).figures["labelled"]["pairs"] == 0 and judged(table).outcome is Outcome.PASS


def test_a_slow_shadow_fails() -> None:
    verdict = judged(pairs(dark_ms=45.0))
    assert verdict.outcome is Outcome.FAIL and "4.50 times as long" in verdict.reasons[0]
