"""Locks of killed git and DVC processes are removed; locks of running processes stay."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lineage.errors import Fault
from pipelines.workspace import dvc, git, stale_locks
from pipelines.workspace import workspace as workspaces

UNUSED_PID = 2**22 - 3  # above the largest process number that Linux gives by default


def test_locks_and_partial_objects_of_dead_processes_are_removed_and_named(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    locks = [workspace / ".git" / name for name in ("index.lock", "HEAD.lock", "refs/heads/main.lock")]
    for path in locks:
        path.touch()
    with pytest.raises(Fault, match=r"index\.lock"):
        git.run("add", "--all")
    partial = workspace / "var/cache/files/md5/ab/cd.Xyz.tmp"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"half")
    empty = workspace / "var/remote/files/md5/ab/cdef.dir"
    empty.parent.mkdir(parents=True)
    empty.touch()
    (workspace / f"var/run/dvc-{UNUSED_PID}-1").touch()
    reader = {"pid": UNUSED_PID, "cmd": "dvc repro"}
    (workspace / ".dvc/tmp/rwlock").write_text(json.dumps({"write": {"/x": reader}, "read": {"/y": [reader]}}))
    removed = stale_locks.remove_stale_locks(workspace)
    assert {*map(str, locks), str(partial), str(empty)} < set(removed)
    assert json.loads((workspace / ".dvc/tmp/rwlock").read_text()) == {}
    assert "removed after a killed run" in caplog.text
    git.run("add", "--all")
    assert stale_locks.remove_stale_locks(workspace) == []


def test_a_partly_written_rwlock_is_removed(workspace: Path) -> None:
    path, batch = workspace / ".dvc/tmp/rwlock", Path("data/batches/brain-mr/one")
    batch.mkdir()
    (batch / "x.txt").write_text("one")
    path.write_text('{"write": {"/x"')
    with pytest.raises(Fault, match="JSON structure is corrupted"):
        dvc.add(batch)
    assert stale_locks.remove_stale_locks(workspace) == [str(path)]
    dvc.add(batch)
    assert batch.with_name("one.dvc").is_file()


def test_a_mark_stays_only_after_unfinished_work_of_dvc(workspace: Path) -> None:
    batch, partial = Path("data/batches/brain-mr/one"), workspace / "var/cache/files/md5/ab/half.tmp"
    batch.mkdir()
    (batch / "x.txt").write_text("one")
    dvc.add(batch)
    dvc.push(batch=batch)
    partial.parent.mkdir(parents=True)
    partial.touch()
    assert stale_locks.remove_stale_locks(workspace) == [] and partial.exists()
    (workspace / ".dvc/tmp/rwlock").write_text("{half")
    with pytest.raises(Fault):
        dvc.add(batch)
    running_mark = workspace / "var/run/dvc-1-1"  # the mark of a process that still runs
    running_mark.touch()
    removed = stale_locks.remove_stale_locks(workspace)
    assert str(partial) in removed and any(name.endswith("/index") for name in removed)
    assert list((workspace / "var/run").glob("dvc-*")) == [running_mark]


def test_an_empty_listing_in_the_remote_is_removed_after_a_kill(workspace: Path) -> None:
    """DVC tries a reflink under the object's own name first: without reflinks, a kill leaves an empty object."""
    batch = Path("data/batches/brain-mr/one")
    batch.mkdir()
    (batch / "x.txt").write_text("one")
    dvc.add(batch)
    dvc.push(batch=batch)
    (listing,) = (workspace / "var/remote/files/md5").glob("??/*.dir")
    complete = listing.read_bytes()
    listing.chmod(0o644)
    listing.write_bytes(b"")
    (workspace / f"var/run/dvc-{UNUSED_PID}-1").touch()
    assert str(listing) in stale_locks.remove_stale_locks(workspace)
    dvc.push(batch=batch)
    assert listing.read_bytes() == complete


def test_the_lock_of_a_running_process_stays(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stale_locks, "WAIT_S", 0.5)
    command = "import time; time.sleep(60)  # dvc"
    dvc_process = subprocess.Popen([sys.executable, "-c", command])
    git_process = subprocess.Popen(["git", "cat-file", "--batch"], cwd=workspace, stdin=subprocess.PIPE)
    try:
        table = {"write": {"/x": {"pid": dvc_process.pid, "cmd": "dvc repro"}}}
        (workspace / ".dvc/tmp/rwlock").write_text(json.dumps(table))
        (workspace / ".git/index.lock").touch()
        with pytest.raises(Fault, match=rf"git \(process {git_process.pid}\) still holds .*index\.lock"):
            stale_locks.remove_stale_locks(workspace)
        assert (workspace / ".git/index.lock").exists()
        git_process.kill()
        git_process.wait()
        assert stale_locks.remove_stale_locks(workspace) == [str(workspace / ".git/index.lock")]
        assert json.loads((workspace / ".dvc/tmp/rwlock").read_text()) == table
    finally:
        dvc_process.kill()
        dvc_process.wait()


def test_the_rwlock_is_not_changed_while_dvc_writes_it(workspace: Path) -> None:
    (workspace / ".dvc/tmp/rwlock").write_text("{half")
    with (workspace / ".dvc/tmp/rwlock.lock").open("a+") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        assert stale_locks.remove_stale_locks(workspace) == []


def test_a_second_run_waits_until_the_first_has_ended(tmp_path: Path, home: Path) -> None:
    marks = [tmp_path / "first", tmp_path / "second"]

    def first() -> None:
        with workspaces.hold_lock("workspace"):
            marks[0].touch()
            time.sleep(60)

    def second() -> None:
        with workspaces.hold_lock("workspace"):
            marks[1].touch()

    pids = []
    for function in (first, second):
        pids.append(_start(function))
        deadline = time.monotonic() + 10
        while not marks[0].exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    time.sleep(0.5)
    assert marks[0].exists() and not marks[1].exists()
    os.kill(pids[0], 9)
    os.waitpid(pids[0], 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[1], 0)[1]) == 0
    assert marks[1].exists()


def _start(function: object) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert callable(function)
            function()
            code = 0
        finally:
            os._exit(code)
    return pid


def test_the_rwlock_entry_of_a_zombie_stage_is_removed_in_the_worktree(workspace: Path) -> None:
    """DVC treats a zombie as running, and would report the worktree as busy for ever."""
    killed = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "dvc"])
    killed.kill()
    path = workspace / "var/worktree/.dvc/tmp/rwlock"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"write": {"/models": {"pid": killed.pid, "cmd": "dvc repro"}}}))
    assert stale_locks.remove_stale_locks(workspace) == [f"entries of dead processes in {path}"]
    assert json.loads(path.read_text()) == {} and killed.wait() != 0


STAGE = """
import os, sys, time
from pathlib import Path
from lineage import child_process
child_process.follow_holder()
Path("pid").write_text(str(os.getpid()))
time.sleep(0 if Path("quick").exists() else 600)
Path("out.txt").write_text("done")
"""
COMMAND = """
from pathlib import Path
from pipelines.workspace import dvc, stale_locks
stale_locks.remove_stale_locks(Path.cwd())
dvc.reproduce(Path("var/worktree").absolute(), "fit", "x")
"""


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])
def test_a_killed_command_ends_its_stage_and_can_be_repeated_at_once(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv("SHELL", shell)
    (workspace / "stage.py").write_text(STAGE)
    (workspace / "dvc.yaml").write_text(
        f"stages:\n  fit:\n    matrix: {{task: [x]}}\n    cmd: {sys.executable} stage.py\n    deps: [stage.py]\n"
        "    outs: [out.txt]\n"
    )
    git.commit(["stage.py", "dvc.yaml"], "A slow stage", workspace)
    tree = dvc.worktree(git.head())
    command = subprocess.Popen([sys.executable, "-c", COMMAND])
    deadline = time.monotonic() + 60
    while not (tree / "pid").exists() and time.monotonic() < deadline:
        assert command.poll() is None
        time.sleep(0.05)
    stage = Path("/proc", (tree / "pid").read_text())
    command.kill()
    command.wait()
    (tree / "quick").touch()
    started = time.monotonic()
    process = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 0, process.stderr[-1000:]
    assert (tree / "out.txt").read_text() == "done" and time.monotonic() - started < 30
    while stage.exists() and b"stage.py" in (stage / "cmdline").read_bytes():  # a zombie has none
        assert time.monotonic() - started < 30
        time.sleep(0.1)
