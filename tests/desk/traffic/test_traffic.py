"""Which release is live: moves by the desk, and activations by the supervisor."""

from __future__ import annotations

import pytest

from desk.traffic import traffic
from desk.traffic.traffic import Shadow, Target
from lineage.errors import Fault
from lineage.record import ledger

pytestmark = pytest.mark.usefixtures("home")
BLUE, GREEN = Target("blue", "http://127.0.0.1:7811"), Target("green", "http://127.0.0.1:7812")


def test_before_the_first_release_none_is_live() -> None:
    assert traffic.live() is None and traffic.previous() is None


def test_a_move_makes_the_old_release_the_previous_one() -> None:
    traffic.move(BLUE.release, BLUE.url, "system")
    assert (traffic.live(), traffic.previous()) == (BLUE, None)
    traffic.move(GREEN.release, GREEN.url, "system")
    assert (traffic.live(), traffic.previous()) == (GREEN, BLUE)


def test_the_same_move_twice_is_one_move() -> None:
    for _ in range(3):
        traffic.move(BLUE.release, BLUE.url + "/", "system")
    assert len(ledger.events(kind="release.activated")) == 1 and len(traffic.history()) == 1


def test_a_restart_at_another_port_changes_the_address_alone() -> None:
    traffic.move(BLUE.release, BLUE.url, "system")
    traffic.move(GREEN.release, GREEN.url, "system")
    moved = traffic.move("green", "http://127.0.0.1:7813", "system")
    assert (traffic.live(), traffic.previous()) == (moved, BLUE)


def test_an_activation_of_the_supervisor_takes_effect() -> None:
    traffic.move(BLUE.release, BLUE.url, "system")
    ledger.append("release.activated", "green", {"url": GREEN.url, "port": 7812})
    assert (traffic.live(), traffic.previous()) == (GREEN, BLUE)
    assert [row["role"] for row in traffic.history()] == ["live", "previous", "live"]


def test_a_shadow_exists_while_it_is_served_and_is_never_live() -> None:
    traffic.move(BLUE.release, BLUE.url, "system")
    ledger.append("shadow.started", "lung-ct", {"version": "4", "release": "dark"}, "enno")
    assert traffic.shadow() is None, "its server is not ready yet"
    ledger.append("shadow.served", "lung-ct", {"version": "4", "release": "dark", "url": GREEN.url})
    assert traffic.shadow() == Shadow("lung-ct", "4", "dark", GREEN.url)
    assert (traffic.live(), traffic.previous()) == (BLUE, None)
    ledger.append("shadow.stopped", "lung-ct", {"version": "4", "reason": "enough"}, "enno")
    assert traffic.shadow() is None


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
    with pytest.raises(Fault, match="on this machine"):
        traffic.move("blue", url, "system")
    assert traffic.live() is None
    ledger.append("release.activated", "blue", {"url": url})
    with pytest.raises(Fault, match="on this machine"):
        traffic.live()
    ledger.append("shadow.served", "lung-ct", {"version": "4", "release": "dark", "url": url})
    with pytest.raises(Fault, match="on this machine"):
        traffic.shadow()
