"""The shadow gate on constructed pairs of answers with known labels."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lineage.record.verdict import Outcome, Verdict
from training.promotion import shadow_comparison
from training.settings import ShadowSettings

SETTINGS = ShadowSettings(bootstrap=400)


def answer_pairs(patients: int = 40, slices: int = 3, **columns: object) -> pd.DataFrame:
    """Equal correct answers of both models; every third patient has a tumour."""
    has_tumour = np.repeat(np.arange(patients) % 3 == 0, slices)
    answers = np.where(has_tumour, "tumour", "normal").astype(object)
    table = pd.DataFrame(
        {
            "cluster": np.repeat([f"p{number}" for number in range(patients)], slices),
            "live": answers,
            "dark": answers,
            "live_score": has_tumour * 0.8 + 0.1,
            "dark_score": has_tumour * 0.8 + 0.1,
            "live_ms": 10.0,
            "dark_ms": 12.0,
            "label": answers,
        }
    )
    return table.assign(**columns)


def judge_pairs(table: pd.DataFrame, unpaired: int = 0) -> Verdict:
    return shadow_comparison.compare("lung-ct/4 in shadow", table, unpaired, ("tumour",), SETTINGS)


def test_the_same_answers_pass() -> None:
    verdict = judge_pairs(answer_pairs(), unpaired=2)
    assert verdict.outcome is Outcome.PASS and verdict.gate == "shadow"
    assert (verdict.figures["pairs"], verdict.figures["clusters"], verdict.figures["unpaired"]) == (120, 40, 2)
    assert verdict.figures["agreement"]["value"] == 1.0 and verdict.figures["slower"] == 1.2


def test_few_patients_are_inconclusive_however_many_slices_they_have() -> None:
    verdict = judge_pairs(answer_pairs(patients=6, slices=200))
    assert verdict.outcome is Outcome.INCONCLUSIVE and "6 clusters" in verdict.reasons[0]


def test_no_pairs_are_inconclusive() -> None:
    verdict = judge_pairs(answer_pairs().iloc[:0], unpaired=9)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.figures["agreement"]["value"] is None and verdict.figures["unpaired"] == 9


def test_different_answers_fail_with_a_reason() -> None:
    changed = answer_pairs()
    changed.loc[changed["cluster"].str.endswith(("0", "1", "2", "3", "4")), "dark"] = "normal"
    changed.loc[changed["cluster"].str.endswith(("5", "6")), "dark"] = "tumour"
    verdict = judge_pairs(changed)
    assert verdict.outcome is Outcome.FAIL and "agree" in " ".join(verdict.reasons)
    assert verdict.figures["labelled"]["shadow_wrong"] > verdict.figures["labelled"]["live_wrong"] == 0


def test_a_shadow_that_withholds_more_fails() -> None:
    withheld = answer_pairs()
    withheld.loc[withheld["cluster"].str.endswith(("1", "2", "3")), "dark"] = None
    verdict = judge_pairs(withheld)
    assert verdict.outcome is Outcome.FAIL
    assert any(reason.startswith("more is withheld") for reason in verdict.reasons)
    assert verdict.figures["withheld"]["live"] == 0.0 and 0.2 < verdict.figures["withheld"]["shadow"] < 0.4


def test_one_patient_with_many_slices_decides_nothing() -> None:
    """Half of all slices differ, but they belong to one patient: by cluster the agreement is inconclusive."""
    table = pd.concat(
        [answer_pairs(patients=40, slices=1), answer_pairs(patients=1, slices=40, cluster="one", dark="normal")]
    )
    assert judge_pairs(table).outcome is Outcome.INCONCLUSIVE


def test_missing_late_labels_are_left_out() -> None:
    table = answer_pairs(label=None)
    assert judge_pairs(table).figures["labelled"]["pairs"] == 0 and judge_pairs(table).outcome is Outcome.PASS


def test_a_slow_shadow_fails() -> None:
    verdict = judge_pairs(answer_pairs(dark_ms=45.0))
    assert verdict.outcome is Outcome.FAIL and "4.50 times as long" in verdict.reasons[0]
