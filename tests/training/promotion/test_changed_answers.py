"""Changed answers: McNemar's exact test with the patient as the unit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from training.promotion.changed_answers import mcnemar


def paired_table(challenger: list[int], rival: list[int], clusters: list[int] | None = None) -> pd.DataFrame:
    count = len(challenger)
    return pd.DataFrame(
        {
            "unit_id": range(count),
            "cluster": clusters or range(count),
            "positive": 1,
            "flagged": challenger,
            "flagged_rival": rival,
        }
    )


def test_it_is_the_exact_test() -> None:
    result = mcnemar(paired_table([0] * 9 + [1] * 2 + [1] * 20, [1] * 9 + [0] * 2 + [1] * 20))
    assert (result["lost"], result["won"]) == (9, 2)
    assert 2 * result["p_worse"] == pytest.approx(statsmodels_mcnemar([[20, 9], [2, 0]], exact=True).pvalue)
    assert result["p_better"] > 0.99


def test_ten_lost_slices_of_one_patient_are_one_lost_patient() -> None:
    result = mcnemar(paired_table([0] * 10, [1] * 10, [1] * 10))
    assert (result["lost"], result["won"], result["p_worse"]) == (1, 0, 0.5)


def test_a_patient_with_as_many_lost_as_won_has_not_changed() -> None:
    result = mcnemar(paired_table([1, 0], [0, 1], [4, 4]))
    assert (result["lost"], result["won"], result["p_worse"], result["p_better"]) == (0, 0, 1, 1)


def test_negatives_do_not_count() -> None:
    result = mcnemar(paired_table([0] * 6, [1] * 6).assign(positive=np.arange(6) % 2))
    assert result["lost"] == 3
