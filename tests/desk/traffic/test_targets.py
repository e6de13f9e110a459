"""Which release is live and which is in shadow, from the ledger; addresses of other machines are refused."""

from __future__ import annotations

import pytest

from desk.traffic import targets
from desk.traffic.targets import Shadow, Target
from lineage import current_state, decisions
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind

pytestmark = pytest.mark.usefixtures("home")
BLUE, GREEN = Target("blue", "http://127.0.0.1:7811"), Target("green", "http://127.0.0.1:7812")


def activate(target: Target) -> None:
    """What the supervisor records when a release gets the traffic."""
    ledger.append(EventKind.RELEASE_ACTIVATED, target.release, {"url": target.url, "port": 7811})


def start_shadow(url: str = GREEN.url) -> None:
    decisions.record(EventKind.SHADOW_STARTED, "lung-ct", {"version": "4", "release": "candidate"}, "system")
    ledger.append(EventKind.SHADOW_SERVED, "lung-ct", {"version": "4", "release": "candidate", "url": url})


def test_before_the_first_release_none_is_live() -> None:
    assert targets.live() is None and current_state.activations() == []


def test_the_newest_activation_is_live() -> None:
    activate(BLUE)
    assert targets.live() == BLUE
    activate(GREEN)
    assert targets.live() == GREEN
    assert [activation.release for activation in current_state.activations()] == ["green", "blue"]


def test_a_restart_at_another_port_changes_only_the_address() -> None:
    activate(BLUE)
    activate(GREEN)
    moved = Target("green", "http://127.0.0.1:7813")
    activate(moved)
    assert targets.live() == moved


def test_a_shadow_exists_while_it_is_served_and_is_never_live() -> None:
    activate(BLUE)
    decisions.record(EventKind.SHADOW_STARTED, "lung-ct", {"version": "4", "release": "candidate"}, "system")
    assert targets.shadow() is None, "its server is not ready yet"
    ledger.append(EventKind.SHADOW_SERVED, "lung-ct", {"version": "4", "release": "candidate", "url": GREEN.url})
    assert targets.shadow() == Shadow("lung-ct", "4", "candidate", GREEN.url)
    assert targets.live() == BLUE
    decisions.record(EventKind.SHADOW_STOPPED, "lung-ct", {"version": "4", "reason": "enough"}, "system")
    assert targets.shadow() is None


def test_an_address_without_a_signed_start_is_no_shadow() -> None:
    decisions.start_signing()
    ledger.append(EventKind.SHADOW_STARTED, "lung-ct", {"version": "4", "release": "candidate"}, "enno")
    ledger.append(EventKind.SHADOW_SERVED, "lung-ct", {"version": "4", "release": "candidate", "url": GREEN.url})
    assert targets.shadow() is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "http://evil.example:80",
        "https://127.0.0.1:7810",
        "http://127.0.0.1@evil.example",
        "http://127.0.0.1:7810/else",
    ],
)
def test_traffic_stays_on_this_machine(url: str) -> None:
    """Also if somebody else wrote the row, because scans, tokens and the desk's secret are sent there."""
    ledger.append(EventKind.RELEASE_ACTIVATED, "blue", {"url": url})
    with pytest.raises(Fault, match="on this machine"):
        targets.live()
    start_shadow(url or "nowhere")
    with pytest.raises(Fault, match="on this machine"):
        targets.shadow()
