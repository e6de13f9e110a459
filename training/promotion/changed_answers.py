"""Units whose answer changed between two models: for a doctor to read, and McNemar's test over the patients."""

from __future__ import annotations

from typing import Any

import pandas as pd


def flips(both: pd.DataFrame) -> dict[str, Any]:
    """Units that the rival had right at its operating point and the challenger has not (`lost`), and how many `won`."""
    right = both["flagged"] == both["positive"]
    had = both["flagged_rival"] == both["positive"]
    return {"lost": both.loc[had & ~right, "unit_id"].tolist(), "won": int((right & ~had).sum())}


def mcnemar(both: pd.DataFrame) -> dict[str, Any]:
    """Patients of whom fewer (`lost`) or more (`won`) positive units are found than before, and one-sided p-values.

    McNemar's exact test with the cluster as the unit: under equal sensitivity, a changed cluster is as often won as
    lost (binomial, 1/2). `p_worse` and `p_better` are 1 where nothing changed.
    """
    from scipy.stats import binom

    positive = both[both["positive"] == 1]
    change = (positive["flagged"] - positive["flagged_rival"]).groupby(positive["cluster"]).sum()
    lost, won = int((change < 0).sum()), int((change > 0).sum())
    tails = {name: float(binom.cdf(count, lost + won, 0.5)) for name, count in (("p_worse", won), ("p_better", lost))}
    return {"lost": lost, "won": won, **tails}
