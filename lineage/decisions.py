"""Decisions of people: signed events in the ledger, verified again before they are acted on.

Anyone who can send Prefect an event, or write to a database, could claim that somebody decided. So the event of a
decision contains an HMAC over kind, subject, actor, time and facts. Code that acts on it calls `check` first, then
records the use, so that no decision is used twice.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime, timedelta
from typing import Any

from lineage import accounts, keys
from lineage.errors import Fault
from lineage.fingerprint import canonical
from lineage.record import ledger
from lineage.record.events import EventKind
from lineage.record.ledger import Event

# Event kinds of decisions, and the action (`accounts.ACTIONS`) that a person must be allowed for each.
KINDS: dict[str, str] = {
    "approval": "approve",
    EventKind.RETRAIN_ASKED: "retrain",
    EventKind.RELEASE_WANTED: "traffic",
    EventKind.SHADOW_STARTED: "traffic",
    EventKind.SHADOW_STOPPED: "traffic",
    EventKind.WITHDRAWAL_BEGUN: "withdraw",
    EventKind.DRIFT_ACKNOWLEDGED: "acknowledge",
    EventKind.SITE_ACCEPTED: "approve",
    EventKind.SITE_WITHDRAWN: "approve",
}
ASKED_BY_PROGRAMS = (EventKind.RETRAIN_ASKED,)  # by drift detection and withdrawals
FRESH_HOURS = 24.0  # maximum age of a decision when it is acted on; an older one must be made again
PATIENT_HOURS: dict[str, float] = {EventKind.RETRAIN_ASKED: 90 * 24.0}  # retraining may wait for labels
SIGNATURE, SIGNED_AT = "signature", "signed_at"


def record(kind: EventKind, subject: str, facts: dict[str, Any], actor: str) -> Event:
    """Record a signed decision. Fault if the actor may not make it, or the kind is unknown."""
    if kind not in KINDS:
        raise Fault(f"{str(kind)!r} is no kind of decision; the kinds are {', '.join(KINDS)}")
    if not _may(actor, kind):
        allowed = " and ".join(accounts.ACTIONS[KINDS[kind]])
        raise Fault(f"{actor} may not decide this: {KINDS[kind]} is for {allowed}s who are signed in")
    signed_facts = facts | {SIGNED_AT: datetime.now(UTC).isoformat(timespec="microseconds")}
    return ledger.append(
        kind, subject, signed_facts | {SIGNATURE: _signature(kind, subject, actor, signed_facts)}, actor
    )


def start_signing() -> None:
    """Record, once, that all decisions of this workspace are signed from now on."""
    if not ledger.events(EventKind.DECISIONS_SIGNED, limit=1):
        keys.create(("decision",))
        ledger.append(EventKind.DECISIONS_SIGNED, "workspace", {})


def is_signed(event: Event) -> bool:
    """Whether a decision is signed with this workspace's key, or is older than the start of signing."""
    signed_facts = {name: value for name, value in event.payload.items() if name != SIGNATURE}
    expected = _signature(event.kind, event.subject, event.actor, signed_facts)
    if hmac.compare_digest(expected.encode(), str(event.payload.get(SIGNATURE, "")).encode()):
        return True
    first_signed = ledger.events(EventKind.DECISIONS_SIGNED, limit=1)
    return not first_signed or event.seq < first_signed[0].seq


def check(event: Event) -> None:
    """Fault unless the decision is signed, by a person who may make it, recent, and not used yet."""
    name = f"the decision {event.seq} ({event.kind} of {event.subject})"
    if SIGNATURE not in event.payload or not is_signed(event):
        raise Fault(f"{name} does not carry this workspace's signature; it is not acted on")
    if not _may(event.actor, event.kind):
        raise Fault(f"{name}: {event.actor} may not decide this (any more); it is not acted on")
    if is_old(event):
        hours = PATIENT_HOURS.get(event.kind, FRESH_HOURS)
        raise Fault(f"{name} is over {hours:g} hours old; it is not acted on, decide again")
    if is_used(event):
        raise Fault(f"{name} was acted on already")


def is_old(event: Event) -> bool:
    """Whether a signed decision is too old, or dated too far in the future, to be acted on."""
    age = datetime.now(UTC) - datetime.fromisoformat(event.payload[SIGNED_AT])
    return abs(age) > timedelta(hours=PATIENT_HOURS.get(event.kind, FRESH_HOURS))


def is_late(event: Event) -> bool:
    """Whether a decision is unused and too old to be used."""
    return SIGNED_AT in event.payload and is_old(event) and not is_used(event)


def is_used(event: Event) -> bool:
    """Whether a decision was acted on or refused."""
    return any(use.payload["decision"] == event.seq for use in ledger.events(EventKind.DECISION_USED, event.subject))


def mark_used(event: Event, refused: str = "") -> None:
    """Record that a decision was acted on, or with `refused` why it was not; either way it is used."""
    use_facts = {"decision": event.seq, "kind": event.kind, "refused": refused}
    ledger.append(
        EventKind.DECISION_USED, event.subject, {name: value for name, value in use_facts.items() if value != ""}
    )


def pending_decisions(kind: EventKind) -> list[Event]:
    """The unused signed decisions of a kind, oldest first; `check` each before acting on it."""
    used_decisions = {event.payload["decision"] for event in ledger.events(EventKind.DECISION_USED)}
    return [event for event in ledger.events(kind) if SIGNATURE in event.payload and event.seq not in used_decisions]


def facts(event: Event) -> dict[str, Any]:
    """The facts of a decision without signature and time."""
    return {name: value for name, value in event.payload.items() if name not in (SIGNATURE, SIGNED_AT)}


def _may(actor: str, kind: str) -> bool:
    """Whether an actor may make a decision; the system only for program requests, or while no account is open."""
    if actor == accounts.SYSTEM:
        return kind in ASKED_BY_PROGRAMS or not accounts.open_accounts()
    return accounts.may(actor, KINDS[kind])


def _signature(kind: str, subject: str, actor: str, facts: dict[str, Any]) -> str:
    text = canonical({"kind": kind, "subject": subject, "actor": actor, "told": facts})
    return hmac.digest(keys.key("decision"), text.encode(), "sha256").hex()
