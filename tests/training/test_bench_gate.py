"""bench/promotion/gate_simulation.py runs on the product's own gate: a small chain, a sham, and a gain that passes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "promotion"


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("gate_simulation", BENCH / "gate_simulation.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_a_chain_of_equal_challengers_reports_the_true_auroc(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RETRAININGS", 3)
    results = np.array([bench.by_gate(bench.Chain(seed)) for seed in range(3)])
    assert results.shape == (3, 3, 3)
    assert (results[:, :, 0] == bench.START).all()
    assert (results[:, :, 2] == 0).all()
    assert np.allclose(results[:, :, 1], bench.START, atol=0.06)


def test_the_rule_that_promotes_on_any_gain_reports_too_high_an_auroc(bench: Any) -> None:
    results = np.array([bench.by_rule(bench.Chain(seed), "higher") for seed in range(6)])
    truth, reported, promoted = results[:, -1].T
    assert (promoted > 0).all()
    assert (reported - truth).mean() > 0.005


def test_a_sham_fails_and_a_large_gain_passes(bench: Any) -> None:
    assert bench.sham(0) == "fail"
    assert bench.passes((0, 400, 0.85, 0.10, 1))
    assert not bench.passes((0, 400, 0.85, 0.0, 1))
