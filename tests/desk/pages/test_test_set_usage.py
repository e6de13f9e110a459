"""What test patients have decided and what is left, and what a version keeps of earlier data: on the page of models."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from desk.pages import test_set_usage
from lineage.record import ledger
from lineage.record.verdict import Outcome
from tests.desk.conftest import judged
from training.promotion import test_set_budget
from training.settings import PromotionSettings

Desk = Callable[[str], TestClient]
SETTINGS = PromotionSettings("required", 500, 7, 0.05, 0.05, 0.10, 0.60, 10, 4)


def look(*batches: str, spent: bool = False) -> dict[str, Any]:
    """A claim as the gate writes it down, on the test patients of these batches, charged by what was charged before."""
    verdicts = [(event.at, event.payload) for event in ledger.events(kind="verdict")]
    past = test_set_budget.read_looks(verdicts, "lung-ct", "2026-12-01T00:00:00Z")
    allowed = test_set_budget.allowances({"newest": batches}, past, SETTINGS)["newest"]
    assert (allowed.level == 0) is spent
    return {"batches": list(batches), "level": allowed.level, "charge": allowed.charge, "cohort": "newest"}


def admit(*batches: str) -> None:
    for batch in batches:
        ledger.append("batch.admitted", batch, {"task": "lung-ct", "units": 40})


def rows(page: str) -> dict[str, list[str]]:
    """The cells of each row of a page's tables, by the row's head."""
    found = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page, re.DOTALL)
    return {
        head: [re.sub("<.*?>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", cells, re.DOTALL)]
        for head, cells in found
    }


def test_the_page_counts_what_each_batch_has_decided(open_desk: Desk) -> None:
    admit("first", "second")
    judged("lung-ct", "6", Outcome.INCONCLUSIVE, "not shown", {"batches": ["first", "second"]}, looks=[look("first")])
    judged(
        "lung-ct",
        "7",
        Outcome.INCONCLUSIVE,
        "not shown",
        {"batches": ["first", "second"]},
        looks=[look("first", "second")],
    )
    admit("third")
    told = rows(open_desk("engineer").get("/models").text)
    first, second, third = (told[name] for name in ("first", "second", "third"))
    assert [first[0], second[0], third[0]] == ["2 times", "once", "not yet"]
    assert third[1:3] == ["0.00 %", "5.00 %"] and third[3].startswith("Fresh: the next gain must be shown at p 0.02")
    used = [float(cells[1].removesuffix(" %")) for cells in (first, second)]
    assert used[0] + float(first[2].removesuffix(" %")) == pytest.approx(5, abs=0.01) and used[0] > used[1] > 0
    assert first[3].startswith("Can decide again: the next gain must be shown at p 0.00")


def test_a_spent_batch_asks_for_fresh_patients(open_desk: Desk) -> None:
    for number in range(6, 26):
        judged("lung-ct", str(number), Outcome.INCONCLUSIVE, "not shown", {"batches": ["first"]}, looks=[look("first")])
    look("first", spent=True)
    told = rows(open_desk("engineer").get("/models").text)["first"]
    assert told[0] == "20 times" and told[3].startswith("Spent: admit a batch with fresh patients")
    assert told[1:3] == ["5.00 %", "0.00 %"]


@pytest.mark.usefixtures("workspace")
def test_a_task_that_no_gate_has_judged_has_no_ledger() -> None:
    ledger.append("model.logged", "brain-mr", {"version": "1", "run_id": "r1"})
    assert test_set_usage.cohorts("brain-mr") is None and test_set_usage.earlier(None) == ()


def test_what_a_version_keeps_of_earlier_data(open_desk: Desk) -> None:
    """With the rows that the comparison really writes (training/promotion/subgroup_comparison.py)."""
    import numpy as np

    from tests.training.conftest import pair
    from training.promotion import comparison

    mine, theirs = pair(80, 3, auroc=0.9, epochs=np.repeat([1, 2], 40))
    mine["site"] = theirs["site"] = "alder"
    figures = comparison.compare(mine, theirs, SETTINGS, "champion 3")
    judged("lung-ct", "6", Outcome.INCONCLUSIVE, "not shown", champion=figures, anchor=figures)
    known = figures["earlier"]["epoch 1"]
    client = open_desk("engineer")
    for address in ("/models", f"/verdicts/{ledger.events(kind='verdict', subject='lung-ct/6')[0].seq}"):
        told = rows(client.get(address).text)
        assert told["epoch 1"][0] == "champion 3"
        assert told["epoch 1"][1:3] == [f"{known['challenger']:.3f}", f"{known['rival']:.3f}"]
        assert told["epoch 1"][3].startswith(f"{known['difference']:+.3f} ({known['low']:+.3f})")
        assert "site alder before" in told
    assert "What version 6 keeps" in client.get("/models").text
