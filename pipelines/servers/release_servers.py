"""Release servers: the wanted release, the previous one and a shadow; traffic moves when the server is ready."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from lineage import current_state
from lineage.errors import Fault
from lineage.record import ledger
from lineage.record.events import EventKind
from pipelines import params
from pipelines.models import shadow
from pipelines.servers import ports, run_files
from pipelines.servers.marked_processes import Process
from pipelines.servers.services import Backoff, Service

log = logging.getLogger(__name__)

RELEASES_KEPT = 2  # releases that run: the answering one, and the one before it for a rollback within a second
PATIENCE = 45.0  # seconds in which a retired server finishes its last answers; its workers get 30 of them
TRAFFIC_MOVE = 2.0  # seconds until every desk has noticed that traffic has moved
FIRST_PORT, PORT_COUNT = 10, 50  # offset from the base port
PREFIX = "release-"


@dataclass
class Fleet:
    """The running servers, the headless ones and the leaving ones.

    Headless: BentoML's head process was killed, and its workers still hold the port and answer. They run until another
    server of the same release answers on another port. Leaving: a server that finishes its last answers.
    """

    base: int
    running: dict[str, Service] = field(default_factory=dict)
    headless: list[Service] = field(default_factory=list)
    leaving: list[Service] = field(default_factory=list)
    backoffs: dict[str, Backoff] = field(default_factory=dict)
    wanted_release: str = ""
    is_ready: bool = False
    is_adopted: bool = False
    is_stopped: bool = False

    def update(self) -> None:
        """Start the needed servers, move traffic to the wanted release when it is ready, retire the other servers."""
        if not self.is_adopted:
            self.adopt()
            self.is_adopted = True
        wanted_event = current_state.release_to_serve()
        if wanted_event is None:
            self.is_ready = True
            return
        if wanted_event.subject != self.wanted_release:  # a new request: try it at once
            self.wanted_release = wanted_event.subject
            self.backoffs.pop(self.wanted_release, None)
        self._add_server(wanted_event.subject)
        live = _live_release()
        if live and not self._is_ready(wanted_event.subject) and is_servable(live[0]):
            self._add_server(live[0])
        for name in list(self.running):
            self._check_server(name)
        if self._is_ready(wanted_event.subject):
            self._activate(wanted_event.subject)
            self._run_standby(wanted_event.subject)
        elif live and self._is_ready(live[0]):
            self._activate(live[0])  # the same release, possibly on another port
        self._retire_replaced()
        self.is_ready = self._is_ready(wanted_event.subject)

    def adopt(self) -> None:
        """Supervise the servers of an earlier `oncoloop up`; an outdated server answers until it is replaced."""
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
                log.warning("%s runs without its head process or is outdated; it is replaced", key)
                self.headless.append(service)

    def stop(self) -> None:
        """End every server and start no new one."""
        self.is_stopped = True
        services = [*self.leaving, *self.headless, *self.running.values()]
        for service in services:
            service.leave()
        deadline = time.monotonic() + 8.0
        for service in services:
            service.stop(max(0.0, deadline - time.monotonic()))

    def _is_ready(self, name: str) -> bool:
        return name in self.running and self.running[name].healthy

    def _add_server(self, name: str) -> None:
        if name not in self.running:
            self.running[name] = self._service(name, self._free_port())

    def _service(self, name: str, port: int) -> Service:
        from serving.bundle import bento_build

        command = bento_build.serve_command(bento_tag(name), port, params.load().serving.workers)
        backoff = self.backoffs.setdefault(name, Backoff())
        key = f"{PREFIX}{name}-{port}"
        return Service(f"{PREFIX}{name}", command, port, "/readyz", key=key, release=name, backoff=backoff)

    def _free_port(self) -> int:
        used_ports = {service.port for service in (*self.running.values(), *self.headless, *self.leaving)}
        first = self.base + FIRST_PORT
        free_ports = (
            port
            for port in range(first, first + PORT_COUNT)
            if port not in used_ports and not ports.is_port_in_use(port)
        )
        port = next(free_ports, None)
        if port is None:
            raise Fault(f"no port from {first} to {first + PORT_COUNT - 1} is free for a release; free one")
        return port

    def _check_server(self, name: str) -> None:
        service = self.running[name]
        if service.is_alive():
            service.check_health()
            return
        if service.process is not None:
            self._replace_server(service)
            self._add_server(name)
            service = self.running[name]
        if service.backoff.is_over() and not self.is_stopped:
            self._start(service)

    def _replace_server(self, service: Service) -> None:
        """Replace a server whose head process has ended; while its workers answer, on another port."""
        del self.running[service.release]
        if service.process and service.healthy and service.process.members():
            service.backoff.record_failure()
            log.warning(
                "%s lost its head process (%s); its workers answer until another server is ready",
                service.name,
                service.process.exit_text(),
            )
            self.headless.append(service)
            return
        service.handle_exit()
        service.stop()
        successor = self._service(service.release, self._free_port())
        successor.trouble = service.trouble
        successor.record()
        self.running[service.release] = successor

    def _start(self, service: Service) -> None:
        try:
            service.start()
        except Fault as fault:  # its port is in use by now: the next update chooses another port
            service.postpone(str(fault))
            service.stop()
            del self.running[service.release]

    def _activate(self, name: str) -> None:
        service = self.running[name]
        if _live_release() != (name, service.url):
            ledger.append(EventKind.RELEASE_ACTIVATED, name, {"url": service.url, "port": service.port})
            log.info("release %s answers now at %s", name, service.url)

    def _run_standby(self, wanted_release: str) -> None:
        """Run the previous release and a shadow beside the wanted release; all other servers finish and end."""
        shadow_version = current_state.active_shadow()
        needed = {
            wanted_release,
            *recent_releases()[:RELEASES_KEPT],
            *([shadow_version.release] if shadow_version else []),
        }
        for name in needed - self.running.keys():
            if is_servable(name):
                self._add_server(name)
        for name in [name for name in self.running if name not in needed]:
            self.running[name].leave()
            self.leaving.append(self.running.pop(name))
        if shadow_version and self._is_ready(shadow_version.release):
            shadow.record_address(shadow_version, self.running[shadow_version.release].url)

    def _retire_replaced(self) -> None:
        """Retire headless servers whose release answers elsewhere or is not needed."""
        for service in list(self.headless):
            successor = self.running.get(service.release)
            is_replaced = successor is None or (
                successor.healthy and time.monotonic() - successor.ready_at > TRAFFIC_MOVE
            )
            if is_replaced or not (service.process and service.process.members()):
                service.leave()
                self.headless.remove(service)
                self.leaving.append(service)
        self.leaving = [service for service in self.leaving if not service.has_left(PATIENCE)]


def bento_tag(name: str) -> str:
    """The Bento tag of a release. Fault if the ledger has no build of it."""
    build = current_state.build_of(name)
    if build is None:
        raise Fault(f"the ledger has no build of a release {name!r}; `oncoloop status` lists the releases")
    return str(build.payload["bento"])


def is_servable(name: str) -> bool:
    """Whether the Bento store still has the Bento of a release."""
    from serving.inference import release_integrity

    build = current_state.build_of(name)
    return build is not None and release_integrity.bento_folder(str(build.payload["bento"])).is_dir()


def recent_releases() -> list[str]:
    """The releases that have received traffic, newest first."""
    return list(dict.fromkeys(activation.release for activation in current_state.activations()))


def _live_release() -> tuple[str, str] | None:
    live = current_state.live_release()
    return (live.release, live.url) if live else None
