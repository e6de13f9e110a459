"""Checks of loopback ports: in use, reachable, answering."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from urllib.error import URLError

import psutil

from lineage import paths

HOST = "127.0.0.1"


def is_port_in_use(port: int) -> bool:
    """Whether a process listens on a loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def is_reachable(port: int) -> bool:
    """Whether a loopback port accepts connections; a port whose process is too busy to accept in time counts."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        try:
            probe.connect((HOST, port))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True


def answers(url: str, seconds: float = 1.0) -> bool:
    """Whether a URL answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=seconds) as response:
            return bool(response.status < 400)
    except (URLError, OSError, ValueError):
        return False


def answers_at(path: Path, health: str, seconds: float = 1.0) -> bool:
    """Whether the server behind a Unix socket answers its health path with status 2xx."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(seconds)
            connection.connect(paths.socket_address(path))
            connection.sendall(f"GET {health} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(16).startswith((b"HTTP/1.1 2", b"HTTP/1.0 2"))
    except OSError:
        return False


def is_listening(pid: int, port: int) -> bool:
    """Whether this process itself listens on a port; another process may listen on the same port."""
    try:
        connections = psutil.Process(pid).net_connections("tcp4")
    except psutil.Error:
        return False
    return any(connection.status == psutil.CONN_LISTEN and connection.laddr.port == port for connection in connections)
