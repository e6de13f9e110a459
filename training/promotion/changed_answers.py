"""Changed answers between two models: the units for review, and McNemar's test over patients."""

from __future__ import annotations

from typing import Any

import pandas as pd


def list_changed_answers(paired: pd.DataFrame) -> dict[str, Any]:
    """Units that the rival answered correctly and the challenger did not (`lost`), and the number of `won` units."""
    is_correct = paired["flagged"] == paired["positive"]
    rival_is_correct = paired["flagged_rival"] == paired["positive"]
    return {
        "lost": paired.loc[rival_is_correct & ~is_correct, "unit_id"].tolist(),
        "won": int((is_correct & ~rival_is_correct).sum()),
    }


def mcnemar(paired: pd.DataFrame) -> dict[str, Any]:
    """Clusters with fewer (`lost`) or more (`won`) flagged positive units than before, and one-sided p-values.

    McNemar's exact test with the cluster as the unit: with equal sensitivity a changed cluster is won or lost with
    probability 1/2 (binomial). `p_worse` and `p_better` are 1 if nothing changed.
    """
    from scipy.stats import binom

    positive = paired[paired["positive"] == 1]
    change = (positive["flagged"] - positive["flagged_rival"]).groupby(positive["cluster"]).sum()
    lost, won = int((change < 0).sum()), int((change > 0).sum())
    tails = {name: float(binom.cdf(count, lost + won, 0.5)) for name, count in (("p_worse", won), ("p_better", lost))}
    return {"lost": lost, "won": won, **tails}
