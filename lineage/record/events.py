"""The kinds of ledger events, each with its subject and its payload. The reference page is generated from them."""

from __future__ import annotations

from enum import StrEnum


class EventKind(StrEnum):
    """Every kind of event that the ledger holds. The values are a stored format: a kind is added, never renamed.

    `subject` says what the subject of the event is, `payload` what its payload holds.
    """

    subject: str
    payload: str

    def __new__(cls, value: str, subject: str, payload: str) -> EventKind:
        """A member: its stored value and its description."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.subject, member.payload = subject, payload
        return member

    # The workspace
    WORKSPACE_CREATED = "workspace.created", "workspace", "the data version"
    WORKSPACE_REPAIRED = "workspace.repaired", "workspace", "what was brought back and what was lost"
    TASK_ADDED = "task.added", "task", "the data version"
    KEYS_LOST = "keys.lost", "workspace", "the purposes of keys that a person gave up"
    DECISIONS_SIGNED = "decisions.signed", "workspace", "from this event on, every decision is signed"
    DEPLOYMENT_CHANGED = "deployment.changed", "deployment", "the fields that were changed from outside"
    DEPLOYMENT_REMOVED = "deployment.removed", "deployment", "nothing more"

    # Batches and patients
    BATCH_RECEIVED = "batch.received", "batch", "task and digest"
    BATCH_ADMITTED = "batch.admitted", "batch", "task, digest, counts and data version"
    BATCH_QUARANTINED = "batch.quarantined", "batch", "task and digest"
    WITHDRAWAL_BEGUN = "withdrawal.begun", "patient hash", "the plan; a signed decision"
    PATIENT_WITHDRAWN = "patient.withdrawn", "patient hash", "batches, models and tasks concerned"

    # Gates and models
    VERDICT = "verdict", "what was judged", "outcome, reasons, figures and thresholds"
    MODEL_LOGGED = "model.logged", "task", "version, run, data version and hashes"
    MODEL_FILES = "model.artifacts", "task/version", "SHA-256 of each file, and why it was recorded"
    MODEL_PROMOTED = "model.promoted", "task", "version, verdict and reason"
    MODEL_REJECTED = "model.rejected", "task", "version and reason"
    MODEL_ROLLED_BACK = "model.rolled-back", "task", "version, release and reason"
    ANCHOR_SET = "anchor.set", "task", "version and reason"
    COHORT_SPENT = "cohort.spent", "task", "version and batches whose test patients have decided"
    SITE_ACCEPTED = "site.accepted", "task at site HASH", "version, number of the verdict and reason; a signed decision"
    SITE_WITHDRAWN = "site.withdrawn", "task at site HASH", "task, site hash and reason; a signed decision"
    APPROVAL = "approval", "task/version", "approve or reject, and the reason; a signed decision"
    DECISION_USED = "decision.used", "subject of the decision", "its number, or why it was refused"
    RETRAIN_ASKED = "retrain.asked", 'task or "all"', "key and reason; a signed decision"

    # Releases
    RELEASE_BUILT = "release.built", "release", "Bento, versions and hashes"
    RELEASE_WANTED = "release.wanted", "release", "the one that it replaces, and the reason; a signed decision"
    RELEASE_ACTIVATED = "release.activated", "release", "the address of its server"
    EVIDENCE_WRITTEN = "evidence.written", "release", "the files of its evidence"
    SHADOW_BUILT = "shadow.built", "release", "as for a release that is built"
    SHADOW_STARTED = "shadow.started", "task", "version and release; a signed decision"
    SHADOW_SERVED = "shadow.served", "task", "version, release and address of its server"
    SHADOW_STOPPED = "shadow.stopped", "task", "version and reason; a signed decision"

    # Monitoring
    DRIFT_ASKED = "drift.asked", "task", "version, number of the verdict and reason"
    DRIFT_ACKNOWLEDGED = "drift.acknowledged", "task", "version and reason; a signed decision"
    OUTCOME_ADDED = "outcome.added", "prediction", "late label and its source"

    # People
    PERSON_ADDED = "person.added", "person", "role"
    PERSON_DISABLED = "person.disabled", "person", "nothing more"
    PERSON_ENABLED = "person.enabled", "person", "nothing more"
    PERSON_INVITED = "person.invited", "person", "minutes for which the link is valid"
    PERSON_SIGNED_IN = "person.signed-in", "person", "where"
    PERSON_SIGNED_OUT = "person.signed-out", "person", "number of sessions that ended"
    TOKEN_ISSUED = "token.issued", "person", "scope, days and SHA-256 of the token"
    TOKEN_REVOKED = "token.revoked", "person", "SHA-256 of the token"
