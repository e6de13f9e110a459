"""The servers of releases: the wanted one, the one before it, a shadow. Traffic moves when one is ready."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from lineage.errors import Fault
from lineage.record import ledger
from pipelines import params
from pipelines.models import release, shadow
from pipelines.servers import ports, run_files
from pipelines.servers.marked_processes import Process
from pipelines.servers.services import Backoff, Service

log = logging.getLogger(__name__)

KEPT = 2  # releases that run: the one that answers, and the one before it for a rollback within a second
PATIENCE = 45.0  # seconds in which a retired server finishes what it answers; its workers get 30 of them
MOVING = 2.0  # seconds in which every desk has seen that traffic has moved
FIRST_PORT, PORTS = 10, 50  # from the base on
PREFIX = "release-"


@dataclass
class Fleet:
    """The servers that run, those whose workers answer without a head, and those that finish their last answers.

    BentoML's head process may be killed while its workers hold its port and go on answering. They are left to it until
    another server of the same release answers on another port.
    """

    base: int
    running: dict[str, Service] = field(default_factory=dict)
    headless: list[Service] = field(default_factory=list)
    leaving: list[Service] = field(default_factory=list)
    backoffs: dict[str, Backoff] = field(default_factory=dict)
    aim: str = ""
    is_ready: bool = False
    adopted: bool = False
    stopped: bool = False

    def turn(self) -> None:
        """Start what should run, move traffic to the wanted release once it is ready, let go what is not needed."""
        if not self.adopted:
            self.adopt()
            self.adopted = True
        wanted = release.wanted()
        if wanted is None:
            self.is_ready = True
            return
        if wanted.subject != self.aim:  # asked for anew, so it is tried anew at once
            self.aim = wanted.subject
            self.backoffs.pop(self.aim, None)
        self._run(wanted.subject)
        live = _live()
        if live and not self._ready(wanted.subject) and servable(live[0]):
            self._run(live[0])
        for name in list(self.running):
            self._tend(name)
        if self._ready(wanted.subject):
            self._activate(wanted.subject)
            self._beside(wanted.subject)
        elif live and self._ready(live[0]):
            self._activate(live[0])  # the same release, on another port perhaps
        self._retire()
        self.is_ready = self._ready(wanted.subject)

    def adopt(self) -> None:
        """Go on with the servers that an earlier `up` left running; what is outdated answers until it is replaced."""
        for key, record in run_files.records().items():
            name, mark = str(record.get("release") or ""), str(record.get("mark") or "")
            if not key.startswith(PREFIX) or not name or not mark:
                continue
            service = self._service(name, int(record["port"]))
            if not record["leaving"] and name not in self.running and service.adopt(record):
                self.running[name] = service
                continue
            service.process = Process(int(record["pid"]), mark)
            if record["leaving"] or not service.process.members():
                service.leave()
                self.leaving.append(service)
            else:
                log.warning("%s answers on without its head process, or is outdated; it is replaced", key)
                self.headless.append(service)

    def stop(self) -> None:
        """End every server, and start no other."""
        self.stopped = True
        every = [*self.leaving, *self.headless, *self.running.values()]
        for service in every:
            service.leave()
        until = time.monotonic() + 8.0
        for service in every:
            service.stop(max(0.0, until - time.monotonic()))

    def _ready(self, name: str) -> bool:
        return name in self.running and self.running[name].healthy

    def _run(self, name: str) -> None:
        if name not in self.running:
            self.running[name] = self._service(name, self._free_port())

    def _service(self, name: str, port: int) -> Service:
        from serving.bundle import bento_build

        command = bento_build.serve_command(tag(name), port, params.load().serving.workers)
        backoff = self.backoffs.setdefault(name, Backoff())
        key = f"{PREFIX}{name}-{port}"
        return Service(f"{PREFIX}{name}", command, port, "/readyz", key=key, release=name, backoff=backoff)

    def _free_port(self) -> int:
        used = {service.port for service in (*self.running.values(), *self.headless, *self.leaving)}
        first = self.base + FIRST_PORT
        free = (port for port in range(first, first + PORTS) if port not in used and not ports.taken(port))
        port = next(free, None)
        if port is None:
            raise Fault(f"no port from {first} to {first + PORTS - 1} is free for a release; free one")
        return port

    def _tend(self, name: str) -> None:
        service = self.running[name]
        if service.alive():
            service.look()
            return
        if service.process is not None:
            self._lose(service)
            self._run(name)
            service = self.running[name]
        if service.backoff.over() and not self.stopped:
            self._start(service)

    def _lose(self, service: Service) -> None:
        """The head process has ended: another server takes its place, on another port while its workers answer."""
        del self.running[service.release]
        if service.process and service.healthy and service.process.members():
            service.backoff.failed()
            log.warning(
                "%s lost its head process (%s); its workers answer until another server is ready",
                service.name,
                service.process.exit(),
            )
            self.headless.append(service)
            return
        service.fell()
        service.stop()
        following = self._service(service.release, self._free_port())
        following.trouble = service.trouble
        following.record()
        self.running[service.release] = following

    def _start(self, service: Service) -> None:
        try:
            service.start()
        except Fault as fault:  # its port was taken since: the next turn takes another
            service.postpone(str(fault))
            service.stop()
            del self.running[service.release]

    def _activate(self, name: str) -> None:
        service = self.running[name]
        if _live() != (name, service.url):
            ledger.append("release.activated", name, {"url": service.url, "port": service.port})
            log.info("release %s answers now at %s", name, service.url)

    def _beside(self, wanted: str) -> None:
        """The release before this one and a shadow run beside it; all others finish what they answer, and end."""
        dark = shadow.wanted()
        needed = {wanted, *recent()[:KEPT], *([dark.release] if dark else [])}
        for name in needed - self.running.keys():
            if servable(name):
                self._run(name)
        for name in [name for name in self.running if name not in needed]:
            self.running[name].leave()
            self.leaving.append(self.running.pop(name))
        if dark and self._ready(dark.release):
            shadow.served(dark, self.running[dark.release].url)

    def _retire(self) -> None:
        """Servers without a head end once another one of their release answers, or none is needed."""
        for service in list(self.headless):
            following = self.running.get(service.release)
            replaced = following is None or (following.healthy and time.monotonic() - following.ready_at > MOVING)
            if replaced or not (service.process and service.process.members()):
                service.leave()
                self.headless.remove(service)
                self.leaving.append(service)
        self.leaving = [service for service in self.leaving if not service.gone(PATIENCE)]


def tag(name: str) -> str:
    """The Bento of a release. Fault if the ledger does not say that it was built."""
    built = next(_built(name), None)
    if built is None:
        raise Fault(f"the ledger does not say that a release {name!r} was built; `oncoloop status` lists them")
    return built


def servable(name: str) -> bool:
    """Whether a release's Bento lies in the store still."""
    from serving.bundle import bento_server

    built = next(_built(name), None)
    return built is not None and bento_server.bento(built).is_dir()


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
