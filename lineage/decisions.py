"""What people decide: rows of the ledger signed with a key of their own, which are checked again where they act.

Whoever can send Prefect an event, or write to a database, can claim that somebody decided. The row of a decision holds
an HMAC over its kind, subject, actor, time and facts; whoever acts on it asks `check` first, and writes down that it
acted, so that no decision is used twice.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime, timedelta
from typing import Any

from lineage import accounts, keys
from lineage.errors import Fault
from lineage.fingerprint import canonical
from lineage.record import ledger
from lineage.record.ledger import Event

# The kinds of rows that say what somebody decided, and what a person must be allowed to do for each (`people.ACTIONS`).
KINDS = {
    "approval": "approve",
    "retrain.asked": "retrain",
    "release.wanted": "traffic",
    "shadow.started": "traffic",
    "shadow.stopped": "traffic",
    "withdrawal.begun": "withdraw",
    "drift.acknowledged": "acknowledge",
}
ASKED_BY_PROGRAMS = ("retrain.asked",)  # the watch asks too, and a withdrawal
FRESH_HOURS = 24.0  # in which a decision must be acted on: later it is made again, by somebody who knows how things are
PATIENT_HOURS = {"retrain.asked": 90 * 24.0}  # it waits for labels
SIGNED_FROM = "decisions.signed"  # the event from which on every decision is signed
SIGNATURE, SIGNED_AT = "signature", "signed_at"


def record(kind: str, subject: str, facts: dict[str, Any], actor: str) -> Event:
    """Write a decision down, signed. Fault if the actor may not decide this, or it is no kind of decision."""
    if kind not in KINDS:
        raise Fault(f"{kind!r} is no kind of decision; the kinds are {', '.join(KINDS)}")
    if not _may(actor, kind):
        allowed = " and ".join(accounts.ACTIONS[KINDS[kind]])
        raise Fault(f"{actor} may not decide this: {KINDS[kind]} is for {allowed}s who are signed in")
    signed_facts = facts | {SIGNED_AT: datetime.now(UTC).isoformat(timespec="microseconds")}
    return ledger.append(
        kind, subject, signed_facts | {SIGNATURE: _signature(kind, subject, actor, signed_facts)}, actor
    )


def begin() -> None:
    """From now on every decision of this workspace is signed; said once."""
    if not ledger.events(SIGNED_FROM, limit=1):
        keys.create(("decision",))
        ledger.append(SIGNED_FROM, "workspace", {})


def is_signed(event: Event) -> bool:
    """Whether a decision was signed with this workspace's key, or was made before decisions were."""
    signed_facts = {name: value for name, value in event.payload.items() if name != SIGNATURE}
    wanted = _signature(event.kind, event.subject, event.actor, signed_facts)
    if hmac.compare_digest(wanted.encode(), str(event.payload.get(SIGNATURE, "")).encode()):
        return True
    began = ledger.events(SIGNED_FROM, limit=1)
    return not began or event.seq < began[0].seq


def check(event: Event) -> None:
    """Fault unless somebody who may do so has decided this, a short time ago, and nobody has acted on it yet."""
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
    """Whether a signed decision is too old (or too far in the future) to be acted on."""
    age = datetime.now(UTC) - datetime.fromisoformat(event.payload[SIGNED_AT])
    return abs(age) > timedelta(hours=PATIENT_HOURS.get(event.kind, FRESH_HOURS))


def is_late(event: Event) -> bool:
    """Whether nobody has acted on a decision, and nobody will any more."""
    return SIGNED_AT in event.payload and is_old(event) and not is_used(event)


def is_used(event: Event) -> bool:
    """Whether somebody has acted on a decision, or refused to."""
    return any(each.payload["decision"] == event.seq for each in ledger.events("decision.used", event.subject))


def use(event: Event, refused: str = "") -> None:
    """Write down that a decision was acted on; or why it was not, which ends it as well."""
    use_facts = {"decision": event.seq, "kind": event.kind, "refused": refused}
    ledger.append("decision.used", event.subject, {name: value for name, value in use_facts.items() if value != ""})


def waiting(kind: str) -> list[Event]:
    """The signed decisions of a kind that nobody has acted on, oldest first. What they are worth, `check` says."""
    used = {event.payload["decision"] for event in ledger.events("decision.used")}
    return [event for event in ledger.events(kind) if SIGNATURE in event.payload and event.seq not in used]


def facts(event: Event) -> dict[str, Any]:
    """What was decided, without what proves it."""
    return {name: value for name, value in event.payload.items() if name not in (SIGNATURE, SIGNED_AT)}


def _may(actor: str, kind: str) -> bool:
    """Whether somebody may decide; the system where programs ask, and else as long as there are no accounts."""
    if actor == accounts.SYSTEM:
        return kind in ASKED_BY_PROGRAMS or not accounts.open_accounts()
    return accounts.may(actor, KINDS[kind])


def _signature(kind: str, subject: str, actor: str, told: dict[str, Any]) -> str:
    signed = canonical({"kind": kind, "subject": subject, "actor": actor, "told": told})
    return hmac.digest(keys.key("decision"), signed.encode(), "sha256").hex()
