"""A web front as a process: `python -m desk.server desk.app:create --port 7800` serves it on the loopback."""

from __future__ import annotations

import argparse
import os
import socket
import sys

import uvicorn

from serving.http.connection import Connection, Peers

HOST = "127.0.0.1"
PER_PEER = "ONCOLOOP_PEER_CONNECTIONS"  # behind a proxy on this machine, all peers are one
DEFAULT_PER_PEER, TOTAL = 64, 512
BACKLOG = 512
GRACE = 30  # seconds in which a server that ends answers what it was asked


def serve(factory: str, port: int, beside: bool = False) -> None:
    """Serve what an import string `module:factory` makes, until SIGTERM. OSError if the port is taken.

    With `beside` another server of this kind may listen on the port still: that is how one follows another without a
    gap.
    """
    Connection.peers = Peers(int(os.environ.get(PER_PEER) or DEFAULT_PER_PEER), TOTAL)
    config = uvicorn.Config(
        factory,
        factory=True,
        http=Connection,
        ws="none",
        loop="uvloop",
        server_header=False,
        log_level="warning",
        timeout_graceful_shutdown=GRACE,
        backlog=BACKLOG,
    )
    with _bound(port, beside) as listening:
        uvicorn.Server(config).run(sockets=[listening])


def _bound(port: int, beside: bool) -> socket.socket:
    if not beside:
        with socket.socket() as probe:  # without SO_REUSEPORT, so it fails where anybody listens
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((HOST, port))
    return listening


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("factory", help="what makes the application, as module:function")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--beside", action="store_true", help="another server may listen on the port still")
    options = parser.parse_args()
    try:
        serve(options.factory, options.port, options.beside)
    except OSError as error:
        sys.stderr.write(f"port {options.port} of {HOST} can't be listened on: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
