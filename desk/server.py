"""Run a web front as a process on the loopback: `python -m desk.server desk.app:create --port 7800`."""

from __future__ import annotations

import argparse
import os
import socket
import sys

import uvicorn

from desk.traffic.connection import BoundedConnection, ConnectionLimits

HOST = "127.0.0.1"
PER_PEER_VARIABLE = "ONCOLOOP_PEER_CONNECTIONS"  # raise it behind a proxy, which makes all peers one address
DEFAULT_PER_PEER, TOTAL = 64, 512
BACKLOG = 512
GRACE_SECONDS = 30  # in which a stopping server finishes its open requests


def serve(factory: str, port: int, beside: bool = False) -> None:
    """Serve the application of an import string `module:factory` until SIGTERM. OSError if the port is in use.

    With `beside`, an older server may still listen on the port, so that a restart leaves no gap.
    """
    per_peer = int(os.environ.get(PER_PEER_VARIABLE) or DEFAULT_PER_PEER)
    BoundedConnection.limits = ConnectionLimits(per_peer, TOTAL)
    config = uvicorn.Config(
        factory,
        factory=True,
        http=BoundedConnection,
        ws="none",
        loop="uvloop",
        server_header=False,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=BACKLOG,
    )
    with _bind(port, beside) as listener:
        uvicorn.Server(config).run(sockets=[listener])


def _bind(port: int, beside: bool) -> socket.socket:
    if not beside:
        with socket.socket() as probe:  # without SO_REUSEPORT, so that it fails if another server listens
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((HOST, port))
    return listener


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("factory", help="the function that creates the application, as module:function")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--beside", action="store_true", help="an older server may still listen on the port")
    options = parser.parse_args()
    try:
        serve(options.factory, options.port, options.beside)
    except OSError as error:
        sys.stderr.write(f"port {options.port} of {HOST} can't be listened on: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
