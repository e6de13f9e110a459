"""The servers of releases: the wanted one, the one before it, a shadow. Traffic moves when one is ready."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from lineage import ledger, places
from lineage.fault import Fault
from pipelines import params, release, services, shadow
from pipelines.services import Service

log = logging.getLogger(__name__)

KEPT = 2  # releases that run: the one that answers, and the one before it for a rollback within a second
FAILURES = 5  # ends in a row after which a server is given up
PATIENCE = 45.0  # seconds in which a retired server finishes what it answers; its workers get 30 of them
FIRST_PORT, PORTS = 10, 50  # from the base on


@dataclass
class Fleet:
    """The servers that run, those that finish their last answers, and the releases that could not be served."""

    base: int
    running: dict[str, Service] = field(default_factory=dict)
    leaving: list[Service] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    aim: str = ""

    def turn(self) -> None:
        """Start what should run, move traffic to the wanted release once it is ready, let go what is not needed."""
        wanted = release.wanted()
        if wanted is None:
            return
        if wanted.subject != self.aim:  # asked for anew, so it is tried anew
            self.aim = wanted.subject
            self.lost.discard(self.aim)
        self._run(wanted.subject)
        for name in list(self.running):
            self._tend(name)
        if self._ready(wanted.subject):
            self._activate(wanted.subject)
            self._beside(wanted.subject)
        self.leaving = [service for service in self.leaving if not service.gone(PATIENCE)]

    def ready(self) -> bool:
        """Whether the wanted release answers."""
        wanted = release.wanted()
        return wanted is None or (self._ready(wanted.subject) and answering() == wanted.subject)

    def stop(self) -> None:
        """End every server."""
        for service in [*self.leaving, *self.running.values()]:
            service.stop()

    def _ready(self, name: str) -> bool:
        return name in self.running and self.running[name].healthy

    def _run(self, name: str) -> None:
        if name not in self.running and name not in self.lost:
            self.running[name] = self._service(name)

    def _service(self, name: str) -> Service:
        from serving import bundle

        used = {service.port for service in (*self.running.values(), *self.leaving)}
        first = self.base + FIRST_PORT
        port = next(p for p in range(first, first + PORTS) if p not in used and not services.taken(p))
        workers = params.load().serving.workers
        return Service(f"release-{name}", bundle.serve_command(tag(name), port, workers), port, "/readyz")

    def _tend(self, name: str) -> None:
        service = self.running[name]
        if service.alive():
            service.look()
            return
        if service.process is not None:
            service.failures, service.healthy = service.failures + 1, False
            log.warning("%s ended (exit %s); see logs/%s.log", service.name, service.process.returncode, service.name)
            services.free(service.port)
        if service.failures < FAILURES:
            service.start()
            return
        self.running.pop(name).stop()
        self.lost.add(name)
        where = places.home() / "logs" / f"{service.name}.log"
        if answering() in (None, name):
            raise Fault(f"{service.name} ended {service.failures} times; its log {where} says why")
        log.error("%s ended %d times and is given up, see %s; traffic stays where it is", service.name, FAILURES, where)

    def _activate(self, name: str) -> None:
        url = self.running[name].url
        if _live() != (name, url):
            ledger.append("release.activated", name, {"url": url, "port": self.running[name].port})
            log.info("release %s answers now at %s", name, url)

    def _beside(self, wanted: str) -> None:
        """The release before this one and a shadow run beside it; all others finish what they answer, and end."""
        dark = shadow.wanted()
        needed = {wanted, *recent()[:KEPT], *([dark.release] if dark else [])}
        for name in needed - self.running.keys() - self.lost:
            if servable(name):
                self._run(name)
        for name in [name for name in self.running if name not in needed]:
            self.running[name].leave()
            self.leaving.append(self.running.pop(name))
        if dark and self._ready(dark.release):
            shadow.served(dark, self.running[dark.release].url)


def tag(name: str) -> str:
    """The Bento of a release. Fault if the ledger does not say that it was built."""
    built = next(_built(name), None)
    if built is None:
        raise Fault(f"the ledger does not say that a release {name!r} was built; `oncoloop status` lists them")
    return built


def servable(name: str) -> bool:
    """Whether a release's Bento lies in the store still."""
    from serving import served

    built = next(_built(name), None)
    return built is not None and served.bento(built).is_dir()


def recent() -> list[str]:
    """The releases that have answered, newest first."""
    return list(dict.fromkeys(event.subject for event in reversed(ledger.events(kind="release.activated"))))


def answering() -> str | None:
    """The release that answers now; None before the first one."""
    live = _live()
    return live[0] if live else None


def _built(name: str) -> Iterator[str]:
    for kind in ("release.built", "shadow.built"):
        yield from (str(event.payload["bento"]) for event in reversed(ledger.events(kind, name)))


def _live() -> tuple[str, str] | None:
    activated = ledger.events(kind="release.activated", limit=1)
    return (activated[0].subject, activated[0].payload["url"]) if activated else None
