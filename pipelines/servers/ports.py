"""Ports of the loopback: whether one is taken, takes connections, answers."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from urllib.error import URLError

import psutil

from lineage import paths

HOST = "127.0.0.1"


def taken(port: int) -> bool:
    """Whether something listens on a loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def reachable(port: int) -> bool:
    """Whether a loopback port takes connections; one that is too busy to answer in time does."""
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
    """Whether what listens on a socket answers with success."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(seconds)
            connection.connect(paths.socket_address(path))
            connection.sendall(f"GET {health} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(16).startswith((b"HTTP/1.1 2", b"HTTP/1.0 2"))
    except OSError:
        return False


def listens(pid: int, port: int) -> bool:
    """Whether this very process listens on a port; another may do so beside it."""
    try:
        found = psutil.Process(pid).net_connections("tcp4")
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in found)
