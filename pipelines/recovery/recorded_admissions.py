"""Admissions in the ledger compared with those in git, and a check that stops work in a damaged workspace."""

from __future__ import annotations

from dataclasses import dataclass

from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from lineage.record.ledger import Event
from pipelines.workspace import git

ADMISSION_EVENTS = (EventKind.BATCH_ADMITTED, EventKind.WITHDRAWAL_BEGUN, EventKind.PATIENT_WITHDRAWN)
MAX_LISTED = 5  # batches in one sentence; `oncoloop verify` names them all


@dataclass(frozen=True)
class GitDifferences:
    """Where git disagrees with the ledger.

    `batches` (task/batch) are missing in today's commit. `versions` are missing in its history. `returned` batches
    are in the commit although a withdrawal removed them.
    """

    batches: tuple[str, ...]
    versions: tuple[str, ...]
    returned: tuple[str, ...] = ()


def admitted_batches() -> dict[str, Event]:
    """Each batch (task/batch) that the ledger says is present: admitted, and not removed by a withdrawal since."""
    return _replay_admissions()[0]


def _replay_admissions() -> tuple[dict[str, Event], set[str]]:
    """The batches that are present, and those that a withdrawal removed."""
    present: dict[str, Event] = {}
    withdrawn: set[str] = set()
    events = [event for kind in ADMISSION_EVENTS for event in ledger.events(kind=kind)]
    for event in sorted(events, key=lambda event: event.seq):
        if event.kind == EventKind.BATCH_ADMITTED:
            pair = f"{event.payload['task']}/{event.payload['batch']}"
            present[pair] = event
            withdrawn.discard(pair)
        else:
            pairs = event.payload.get("batches", [])
            withdrawn |= {pair for pair in pairs if present.pop(pair, None)}
    return present, withdrawn


def permanent_losses() -> dict[str, set[str]]:
    """The batches and versions that a repair recorded as lost for good.

    A batch that was admitted again since is not among them.
    """
    losses: dict[str, set[str]] = {"batches": set(), "versions": set()}
    present = admitted_batches()
    for event in ledger.events(kind=EventKind.WORKSPACE_REPAIRED):
        recorded = event.payload["lost"]
        losses["batches"] |= {pair for pair in recorded["batches"] if pair in present and present[pair].seq < event.seq}
        losses["versions"] |= set(recorded["versions"])
    return losses


def judged_digests(kinds: tuple[EventKind, ...]) -> set[str]:
    """The digests of the batches in events of these kinds. A batch that is lost for good may be judged again."""
    present, lost_batches = admitted_batches(), permanent_losses()["batches"]
    digests = {str(event.payload["digest"]) for kind in kinds for event in ledger.events(kind=kind)}
    return digests - {str(present[pair].payload["digest"]) for pair in lost_batches}


def compare_with_git() -> GitDifferences:
    """Compare ledger and git, with two calls of git for any number of batches."""
    (present, withdrawn), losses = _replay_admissions(), permanent_losses()
    committed, history = git.batches_of("HEAD"), set(git.run("rev-list", "HEAD").split())
    versions = dict.fromkeys(
        str(event.payload["data_version"]) for event in ledger.events(kind=EventKind.BATCH_ADMITTED)
    )
    return GitDifferences(
        tuple(sorted(pair for pair in present if pair not in committed and pair not in losses["batches"])),
        tuple(version for version in versions if version not in history and version not in losses["versions"]),
        () if _has_unfinished_withdrawal() else tuple(sorted(committed & withdrawn)),
    )


def _has_unfinished_withdrawal() -> bool:
    """Whether a withdrawal was interrupted: then the next run still removes its batches."""
    completed = {event.payload.get("begun") for event in ledger.events(kind=EventKind.PATIENT_WITHDRAWN)}
    return any(event.seq not in completed for event in ledger.events(kind=EventKind.WITHDRAWAL_BEGUN))


def check_git_history() -> None:
    """Fault if git lost what the ledger names, or has a withdrawn batch again: any new write would make it worse."""
    differences = compare_with_git()
    if differences.returned:
        raise Fault(
            f"the git of this workspace has a batch again that a withdrawal removed ({differences.returned[0]}): "
            "`oncoloop verify --repair` restores what came after it"
        )
    if not differences.batches and not differences.versions:
        return
    names = [*differences.batches, *(f"data version {version[:12]}" for version in differences.versions)]
    listed = ", ".join(names[:MAX_LISTED])
    remainder = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    raise Fault(
        f"the git of this workspace has lost what the ledger names ({listed}{remainder}); nothing is "
        "written until that is restored: `oncoloop verify` names all of it, `oncoloop verify --repair` restores it"
    )
