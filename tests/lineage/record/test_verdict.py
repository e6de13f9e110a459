"""A verdict has an exit code and survives serialisation."""

from __future__ import annotations

import json

import pytest

from lineage.record.verdict import Outcome, Verdict, from_dict, worst


@pytest.mark.parametrize(("outcome", "code"), [(Outcome.PASS, 0), (Outcome.FAIL, 3), (Outcome.INCONCLUSIVE, 4)])
def test_each_outcome_has_its_exit_code(outcome: Outcome, code: int) -> None:
    assert Verdict("data", "b-1", outcome, ()).exit_code == code


def test_a_verdict_survives_json() -> None:
    verdict = Verdict(
        "training", "lung-ct/2", Outcome.INCONCLUSIVE, ("ten patients are missing",), {"n": 12}, {"n": 22}
    )
    assert from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict


def test_a_verdict_with_a_missing_part_is_an_error() -> None:
    with pytest.raises(KeyError, match="figures"):
        from_dict({"gate": "data", "subject": "b", "outcome": "pass", "reasons": []})


def test_the_worst_outcome_decides() -> None:
    assert worst([]) is Outcome.PASS
    assert worst([Outcome.PASS, Outcome.INCONCLUSIVE]) is Outcome.INCONCLUSIVE
    assert worst([Outcome.INCONCLUSIVE, Outcome.FAIL, Outcome.PASS]) is Outcome.FAIL
