"""Locks that a killed git or DVC left behind do not stop the next run; those of the living are left alone."""

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

DEAD = 2**22 - 3  # above the largest process number that Linux gives by default


def test_what_the_dead_left_is_mended_by_name(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    left = [workspace / ".git" / name for name in ("index.lock", "HEAD.lock", "refs/heads/main.lock")]
    for path in left:
        path.touch()
    with pytest.raises(Fault, match=r"index\.lock"):
        git.run("add", "--all")
    half = workspace / "var/cache/files/md5/ab/cd.Xyz.tmp"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    empty = workspace / "var/remote/files/md5/ab/cdef.dir"
    empty.parent.mkdir(parents=True)
    empty.touch()
    (workspace / f"var/run/dvc-{DEAD}-1").touch()
    reader = {"pid": DEAD, "cmd": "dvc repro"}
    (workspace / ".dvc/tmp/rwlock").write_text(json.dumps({"write": {"/x": reader}, "read": {"/y": [reader]}}))
    mended = stale_locks.mend(workspace)
    assert {*map(str, left), str(half), str(empty)} < set(mended)
    assert json.loads((workspace / ".dvc/tmp/rwlock").read_text()) == {}
    assert "removed after a killed run" in caplog.text
    git.run("add", "--all")
    assert stale_locks.mend(workspace) == []


def test_a_table_that_was_cut_off_while_it_was_written_is_removed(workspace: Path) -> None:
    path, batch = workspace / ".dvc/tmp/rwlock", Path("data/batches/brain-mr/one")
    batch.mkdir()
    (batch / "x.txt").write_text("one")
    path.write_text('{"write": {"/x"')
    with pytest.raises(Fault, match="JSON structure is corrupted"):
        dvc.add(batch)
    assert stale_locks.mend(workspace) == [str(path)]
    dvc.add(batch)
    assert batch.with_name("one.dvc").is_file()


def test_dvc_leaves_a_mark_only_where_it_did_not_come_to_its_end(workspace: Path) -> None:
    batch, half = Path("data/batches/brain-mr/one"), workspace / "var/cache/files/md5/ab/half.tmp"
    batch.mkdir()
    (batch / "x.txt").write_text("one")
    dvc.add(batch)
    dvc.push(batch=batch)
    half.parent.mkdir(parents=True)
    half.touch()
    assert stale_locks.mend(workspace) == [] and half.exists()
    (workspace / ".dvc/tmp/rwlock").write_text("{half")
    with pytest.raises(Fault):
        dvc.add(batch)
    alive = workspace / "var/run/dvc-1-1"  # a process that has lived longer than its mark
    alive.touch()
    mended = stale_locks.mend(workspace)
    assert str(half) in mended and any(name.endswith("/index") for name in mended)
    assert list((workspace / "var/run").glob("dvc-*")) == [alive]


def test_a_list_of_files_that_a_kill_left_empty_in_the_remote(workspace: Path) -> None:
    """DVC tries a reflink under the object's own name first: where there is none, a kill leaves an empty object."""
    batch = Path("data/batches/brain-mr/one")
    batch.mkdir()
    (batch / "x.txt").write_text("one")
    dvc.add(batch)
    dvc.push(batch=batch)
    (listed,) = (workspace / "var/remote/files/md5").glob("??/*.dir")
    whole = listed.read_bytes()
    listed.chmod(0o644)
    listed.write_bytes(b"")
    (workspace / f"var/run/dvc-{DEAD}-1").touch()
    assert str(listed) in stale_locks.mend(workspace)
    dvc.push(batch=batch)
    assert listed.read_bytes() == whole


def test_the_lock_of_a_living_process_stays(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stale_locks, "WAIT_S", 0.5)
    command = "import time; time.sleep(60)  # dvc"
    alive = subprocess.Popen([sys.executable, "-c", command])
    git = subprocess.Popen(["git", "cat-file", "--batch"], cwd=workspace, stdin=subprocess.PIPE)
    try:
        table = {"write": {"/x": {"pid": alive.pid, "cmd": "dvc repro"}}}
        (workspace / ".dvc/tmp/rwlock").write_text(json.dumps(table))
        (workspace / ".git/index.lock").touch()
        with pytest.raises(Fault, match=rf"git \(process {git.pid}\) still holds .*index\.lock"):
            stale_locks.mend(workspace)
        assert (workspace / ".git/index.lock").exists()
        git.kill()
        git.wait()
        assert stale_locks.mend(workspace) == [str(workspace / ".git/index.lock")]
        assert json.loads((workspace / ".dvc/tmp/rwlock").read_text()) == table
    finally:
        alive.kill()
        alive.wait()


def test_while_dvc_writes_its_table_nobody_touches_it(workspace: Path) -> None:
    (workspace / ".dvc/tmp/rwlock").write_text("{half")
    with (workspace / ".dvc/tmp/rwlock.lock").open("a+") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        assert stale_locks.mend(workspace) == []


def test_of_two_runs_at_once_one_waits_and_a_dead_one_frees_the_workspace(tmp_path: Path, home: Path) -> None:
    marks = [tmp_path / "first", tmp_path / "second"]

    def first() -> None:
        with workspaces.alone("workspace"):
            marks[0].touch()
            time.sleep(60)

    def second() -> None:
        with workspaces.alone("workspace"):
            marks[1].touch()

    pids = []
    for work in (first, second):
        pids.append(_start(work))
        until = time.monotonic() + 10
        while not marks[0].exists() and time.monotonic() < until:
            time.sleep(0.02)
    time.sleep(0.5)
    assert marks[0].exists() and not marks[1].exists()
    os.kill(pids[0], 9)
    os.waitpid(pids[0], 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[1], 0)[1]) == 0
    assert marks[1].exists()


def _start(work: object) -> int:
    number = os.fork()
    if number == 0:
        code = 1
        try:
            assert callable(work)
            work()
            code = 0
        finally:
            os._exit(code)
    return number


def test_a_killed_stage_whose_parent_never_asked_is_dead_for_the_worktree_too(workspace: Path) -> None:
    """DVC takes such a process for a living one, and would call the worktree busy for ever."""
    killed = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "dvc"])
    killed.kill()
    path = workspace / "var/worktree/.dvc/tmp/rwlock"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"write": {"/models": {"pid": killed.pid, "cmd": "dvc repro"}}}))
    assert stale_locks.mend(workspace) == [f"entries of dead processes in {path}"]
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
stale_locks.mend(Path.cwd())
dvc.reproduce(Path("var/worktree").absolute(), "fit", "x")
"""


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])
def test_a_killed_command_takes_its_stage_along_and_its_repetition_goes_through_at_once(
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
    until = time.monotonic() + 60
    while not (tree / "pid").exists() and time.monotonic() < until:
        assert command.poll() is None
        time.sleep(0.05)
    stage = Path("/proc", (tree / "pid").read_text())
    command.kill()
    command.wait()
    (tree / "quick").touch()
    begun = time.monotonic()
    again = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0, again.stderr[-1000:]
    assert (tree / "out.txt").read_text() == "done" and time.monotonic() - begun < 30
    while stage.exists() and b"stage.py" in (stage / "cmdline").read_bytes():  # a zombie has none
        assert time.monotonic() - begun < 30
        time.sleep(0.1)
