"""The use of test patients and results on earlier data, on the page of models."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from desk.pages import test_set_usage
from lineage.record import ledger
from lineage.record.events import EventKind
from lineage.record.verdict import Outcome
from tests.desk.conftest import record_judged_version
from training.promotion import test_set_budget
from training.settings import PromotionSettings

Desk = Callable[[str], TestClient]
SETTINGS = PromotionSettings("required", 500, 7, 0.05, 0.05, 0.10, 0.60, 10, 4)


def look(*batches: str, is_spent: bool = False) -> dict[str, Any]:
    """A look at the test patients of these batches, as the gate records it after the looks before."""
    verdicts = [(event.at, event.payload) for event in ledger.events(kind=EventKind.VERDICT)]
    past = test_set_budget.read_looks(verdicts, "lung-ct", "2026-12-01T00:00:00Z")
    allowed = test_set_budget.allowances({"newest": batches}, past, SETTINGS)["newest"]
    assert (allowed.level == 0) is is_spent
    return {"batches": list(batches), "level": allowed.level, "charge": allowed.charge, "cohort": "newest"}


def admit(*batches: str) -> None:
    for batch in batches:
        ledger.append(EventKind.BATCH_ADMITTED, batch, {"task": "lung-ct", "units": 40})


def rows(page: str) -> dict[str, list[str]]:
    """The cells of each row of a page's tables, by the row's header."""
    table_rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page, re.DOTALL)
    return {
        head: [re.sub("<.*?>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", cells, re.DOTALL)]
        for head, cells in table_rows
    }


def test_the_page_counts_the_decisions_of_each_batch(open_desk: Desk) -> None:
    admit("first", "second")
    record_judged_version(
        "lung-ct", "6", Outcome.INCONCLUSIVE, "not shown", {"batches": ["first", "second"]}, looks=[look("first")]
    )
    record_judged_version(
        "lung-ct",
        "7",
        Outcome.INCONCLUSIVE,
        "not shown",
        {"batches": ["first", "second"]},
        looks=[look("first", "second")],
    )
    admit("third")
    cells = rows(open_desk("engineer").get("/models").text)
    first, second, third = (cells[name] for name in ("first", "second", "third"))
    assert [first[0], second[0], third[0]] == ["2 times", "once", "not yet"]
    assert third[1:3] == ["0.00 %", "5.00 %"] and third[3].startswith("Fresh: the next gain must be shown at p 0.02")
    used = [float(row[1].removesuffix(" %")) for row in (first, second)]
    assert used[0] + float(first[2].removesuffix(" %")) == pytest.approx(5, abs=0.01) and used[0] > used[1] > 0
    assert first[3].startswith("Can decide again: the next gain must be shown at p 0.00")


def test_a_spent_batch_needs_new_patients(open_desk: Desk) -> None:
    for number in range(6, 26):
        record_judged_version(
            "lung-ct", str(number), Outcome.INCONCLUSIVE, "not shown", {"batches": ["first"]}, looks=[look("first")]
        )
    look("first", is_spent=True)
    cells = rows(open_desk("engineer").get("/models").text)["first"]
    assert cells[0] == "20 times" and cells[3].startswith("Spent: admit a batch with fresh patients")
    assert cells[1:3] == ["5.00 %", "0.00 %"]


@pytest.mark.usefixtures("workspace")
def test_a_task_without_a_verdict_has_no_budget() -> None:
    ledger.append(EventKind.MODEL_LOGGED, "brain-mr", {"version": "1", "run_id": "r1"})
    assert test_set_usage.cohorts("brain-mr") is None and test_set_usage.earlier_results(None) == ()


def test_the_page_shows_a_versions_results_on_earlier_data(open_desk: Desk) -> None:
    """With rows of the real comparison (training/promotion/subgroup_comparison.py)."""
    import numpy as np

    from tests.training.conftest import pair
    from training.promotion import comparison

    challenger, champion = pair(80, 3, auroc=0.9, epochs=np.repeat([1, 2], 40))
    challenger["site"] = champion["site"] = "alder"
    figures = comparison.compare(challenger, champion, SETTINGS, "champion 3")
    record_judged_version("lung-ct", "6", Outcome.INCONCLUSIVE, "not shown", champion=figures, anchor=figures)
    expected = figures["earlier"]["epoch 1"]
    client = open_desk("engineer")
    for address in ("/models", f"/verdicts/{ledger.events(kind=EventKind.VERDICT, subject='lung-ct/6')[0].seq}"):
        cells = rows(client.get(address).text)
        assert cells["epoch 1"][0] == "champion 3"
        assert cells["epoch 1"][1:3] == [f"{expected['challenger']:.3f}", f"{expected['rival']:.3f}"]
        assert cells["epoch 1"][3].startswith(f"{expected['difference']:+.3f} ({expected['low']:+.3f})")
        assert "site alder before" in cells
    assert "Version 6 on earlier data" in client.get("/models").text
