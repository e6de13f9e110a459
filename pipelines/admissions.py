"""What the ledger says that the workspace holds, beside what its git holds; a harmed workspace is stopped here."""

from __future__ import annotations

from dataclasses import dataclass

from lineage import ledger
from lineage.fault import Fault
from lineage.ledger import Event
from pipelines import git

ADMITTED, REPAIRED = "batch.admitted", "workspace.repaired"
WITHDRAWN = ("withdrawal.begun", "patient.withdrawn")
NAMED = 5  # batches in one sentence; `oncoloop verify` names them all


@dataclass(frozen=True)
class Lacking:
    """What git lacks of the ledger: batches (task/batch) of its newest commit, versions outside its history."""

    batches: tuple[str, ...]
    versions: tuple[str, ...]


def admitted() -> dict[str, Event]:
    """Each batch, as task/batch, that the ledger says is here: admitted, and not replaced by a withdrawal since."""
    present: dict[str, Event] = {}
    for event in sorted([event for kind in (ADMITTED, *WITHDRAWN) for event in ledger.events(kind=kind)],
                        key=lambda event: event.seq):  # fmt: skip
        if event.kind == ADMITTED:
            present[f"{event.payload['task']}/{event.payload['batch']}"] = event
        else:
            for pair in event.payload.get("batches", []):
                present.pop(pair, None)
    return present


def lost_for_good() -> dict[str, set[str]]:
    """The batches and versions of which a repair has written down that nothing brings them back."""
    events = ledger.events(kind=REPAIRED)
    return {
        name: {item for event in events for item in event.payload["lost"][name]} for name in ("batches", "versions")
    }


def lacking() -> Lacking:
    """Compare ledger and git: two calls of git, whatever the number of batches."""
    known, lost = admitted(), lost_for_good()
    committed, history = git.batches_of("HEAD"), set(git.run("rev-list", "HEAD").split())
    versions = dict.fromkeys(str(event.payload["data_version"]) for event in ledger.events(kind=ADMITTED))
    return Lacking(
        tuple(sorted(pair for pair in known if pair not in committed and pair not in lost["batches"])),
        tuple(version for version in versions if version not in history and version not in lost["versions"]),
    )


def check() -> None:
    """Fault where git lost what the ledger names: whatever was written now would make it worse."""
    found = lacking()
    if not found.batches and not found.versions:
        return
    names = [*found.batches, *(f"data version {version[:12]}" for version in found.versions)]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    raise Fault(
        f"the git of this workspace has lost what the ledger names ({', '.join(names[:NAMED])}{more}); nothing is "
        "written until that is back: `oncoloop verify` names all of it, `oncoloop verify --repair` brings it back"
    )
