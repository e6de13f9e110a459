"""The outbox loses no message and stores none twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineage.errors import Fault
from lineage.record import outbox


def test_messages_are_pending_in_order_until_delivered(home: Path) -> None:
    assert outbox.put("retrain", "lung-ct/7", {"task": "lung-ct"})
    assert outbox.put("retrain", "brain-mr/7", {"task": "brain-mr"})
    first, second = outbox.pending()
    assert (first.kind, first.key, first.payload) == ("retrain", "lung-ct/7", {"task": "lung-ct"})
    outbox.mark_delivered(first.id)
    assert outbox.pending() == [second]


def test_a_message_is_stored_once_even_after_delivery(home: Path) -> None:
    outbox.put("retrain", "lung-ct/7", {"window": 1})
    assert not outbox.put("retrain", "lung-ct/7", {"window": 2})
    outbox.mark_delivered(outbox.pending()[0].id)
    assert not outbox.put("retrain", "lung-ct/7", {"window": 3})
    assert outbox.pending() == []
    assert outbox.put("watch", "lung-ct/7", {})


def test_delivery_is_idempotent_and_an_unknown_message_is_a_fault(home: Path) -> None:
    outbox.put("retrain", "lung-ct/7", {})
    number = outbox.pending()[0].id
    outbox.mark_delivered(number)
    outbox.mark_delivered(number)
    with pytest.raises(Fault, match="no message 99"):
        outbox.mark_delivered(99)
