"""What the ledger says that the workspace holds, beside what its git holds; a harmed workspace is stopped here."""

from __future__ import annotations

from dataclasses import dataclass

from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.ledger import Event
from pipelines.workspace import git

ADMITTED, REPAIRED = "batch.admitted", "workspace.repaired"
WITHDRAWN = ("withdrawal.begun", "patient.withdrawn")
NAMED = 5  # batches in one sentence; `oncoloop verify` names them all


@dataclass(frozen=True)
class Lacking:
    """What git lacks of the ledger: batches (task/batch) of its newest commit, versions outside its history.

    `returned`: batches of that commit which a withdrawal had taken away.
    """

    batches: tuple[str, ...]
    versions: tuple[str, ...]
    returned: tuple[str, ...] = ()


def admitted() -> dict[str, Event]:
    """Each batch, as task/batch, that the ledger says is here: admitted, and not replaced by a withdrawal since."""
    return _fold()[0]


def _fold() -> tuple[dict[str, Event], set[str]]:
    """The batches that are here, and those that a withdrawal took away."""
    present: dict[str, Event] = {}
    withdrawn: set[str] = set()
    events = [event for kind in (ADMITTED, *WITHDRAWN) for event in ledger.events(kind=kind)]
    for event in sorted(events, key=lambda event: event.seq):
        if event.kind == ADMITTED:
            pair = f"{event.payload['task']}/{event.payload['batch']}"
            present[pair] = event
            withdrawn.discard(pair)
        else:
            pairs = event.payload.get("batches", [])
            withdrawn |= {pair for pair in pairs if present.pop(pair, None)}
    return present, withdrawn


def lost_for_good() -> dict[str, set[str]]:
    """The batches and versions of which a repair has written down that nothing brings them back.

    A batch that was admitted anew since is not among them.
    """
    found: dict[str, set[str]] = {"batches": set(), "versions": set()}
    present = admitted()
    for event in ledger.events(kind=REPAIRED):
        lost = event.payload["lost"]
        found["batches"] |= {pair for pair in lost["batches"] if pair in present and present[pair].seq < event.seq}
        found["versions"] |= set(lost["versions"])
    return found


def judged(kinds: tuple[str, ...]) -> set[str]:
    """The digests of batches that a gate has judged; one that was admitted and is lost for good may come again."""
    present, lost = admitted(), lost_for_good()["batches"]
    digests = {str(event.payload["digest"]) for kind in kinds for event in ledger.events(kind=kind)}
    return digests - {str(present[pair].payload["digest"]) for pair in lost}


def lacking() -> Lacking:
    """Compare ledger and git: two calls of git, whatever the number of batches."""
    (known, withdrawn), lost = _fold(), lost_for_good()
    committed, history = git.batches_of("HEAD"), set(git.run("rev-list", "HEAD").split())
    versions = dict.fromkeys(str(event.payload["data_version"]) for event in ledger.events(kind=ADMITTED))
    return Lacking(
        tuple(sorted(pair for pair in known if pair not in committed and pair not in lost["batches"])),
        tuple(version for version in versions if version not in history and version not in lost["versions"]),
        () if _unfinished() else tuple(sorted(committed & withdrawn)),
    )


def _unfinished() -> bool:
    """Whether a withdrawal was interrupted: the next run takes its batches away."""
    done = {event.payload.get("begun") for event in ledger.events(kind=WITHDRAWN[1])}
    return any(event.seq not in done for event in ledger.events(kind=WITHDRAWN[0]))


def check() -> None:
    """Fault where git lost what the ledger names: whatever was written now would make it worse."""
    found = lacking()
    if found.returned:
        raise Fault(
            f"the git of this workspace has a batch again that a withdrawal took away ({found.returned[0]}): "
            "`oncoloop verify --repair` brings back what came after it"
        )
    if not found.batches and not found.versions:
        return
    names = [*found.batches, *(f"data version {version[:12]}" for version in found.versions)]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    raise Fault(
        f"the git of this workspace has lost what the ledger names ({', '.join(names[:NAMED])}{more}); nothing is "
        "written until that is back: `oncoloop verify` names all of it, `oncoloop verify --repair` brings it back"
    )
