"""A backup comes back in another place, with the old one gone; its keys travel apart, encrypted; all is private."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineage.errors import Fault
from pipelines.servers import services
from pipelines.workspace import backup, key_backup
from tests.pipelines import small_workspace
from tests.pipelines.conftest import Run, clean
from tests.pipelines.small_workspace import TASK

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(scope="module")
def saved(small_ward: Path, oncoloop: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a backup and a file of keys; the workspace that they are of is gone, and so is its original."""
    folder = tmp_path_factory.mktemp("saved")
    ward = small_workspace.move(small_ward, folder / "ward")
    (folder / "passphrase").write_text(f"{PASSPHRASE}\n")
    hidden = small_ward.rename(small_ward.with_name("hidden"))
    try:
        for arguments in (
            ["user", "add", "ines", "--role", "engineer"],
            ["backup", "../ward.tar", "--keys", "../ward.keys", "--passphrase-file", "../passphrase"],
        ):
            done = oncoloop(*arguments, cwd=ward)
            assert done.returncode == 0, done.stderr
        shutil.rmtree(ward)
        yield folder
    finally:
        hidden.rename(small_ward)


def restored(saved: Path, oncoloop: Run, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = ("restore", str(saved / "ward.tar"), str(folder), *more)
    return oncoloop(*arguments, cwd=folder.parent)


def sign_in(oncoloop: Run, ward: Path) -> None:
    """Nobody brings a sign-in along: the engineer comes in anew."""
    assert "oncoloop signin" in oncoloop("approve", TASK, "1", "--reason", "read", cwd=ward).stderr
    assert oncoloop("signin", oncoloop("login", "ines", cwd=ward).stdout.strip(), cwd=ward).returncode == 0


def with_keys(saved: Path) -> tuple[str, ...]:
    return ("--keys", str(saved / "ward.keys"), "--passphrase-file", str(saved / "passphrase"))


def names(tar: Path) -> set[str]:
    with tarfile.open(tar) as archive:
        return set(archive.getnames())


def test_a_backup_is_private_and_holds_no_key(saved: Path) -> None:
    for name in ("ward.tar", "ward.keys"):
        assert stat.S_IMODE((saved / name).stat().st_mode) == 0o600, name
    assert not [name for name in names(saved / "ward.tar") if name.startswith("var/keys/")]
    assert not list(saved.glob("*.part"))
    assert PASSPHRASE not in (saved / "ward.keys").read_text()


def test_locks_of_packages_and_of_dvc_are_in_it_and_those_of_processes_are_not(saved: Path) -> None:
    locks = {name for name in names(saved / "ward.tar") if name.endswith(".lock")}
    assert "dvc.lock" in locks
    assert not [name for name in locks if name.startswith((".git/", ".dvc/tmp", "var/run"))]


def test_after_a_restore_elsewhere_the_waiting_version_is_approved_released_and_answers(
    saved: Path, oncoloop: Run, tmp_path: Path
) -> None:
    ward = tmp_path / "another place" / "ward 8"
    ward.parent.mkdir()
    done = restored(saved, oncoloop, ward, *with_keys(saved))
    assert done.returncode == 0, done.stderr
    assert (ward / "dvc.lock").is_file()

    def say(*arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, object]:
        done = oncoloop(*arguments, "--json", cwd=ward)
        assert done.returncode in codes, f"{arguments}: {done.stderr[-2000:]}"
        return dict(json.loads(done.stdout))

    assert say("verify")["outcome"] == "pass"
    waiting = say("status")["waiting"]
    assert isinstance(waiting, dict) and waiting[TASK] == ["1"]
    sign_in(oncoloop, ward)
    models = say("retrain").get("models", [])
    assert isinstance(models, list)
    assert [(model["version"], model["new"]) for model in models] in ([], [("1", False)]), "nothing is fitted again"
    assert say("approve", TASK, "1", "--reason", "read after the restore")["release"]
    scan = next(path for path in sorted((ward / "inbox/first").iterdir()) if path.name.startswith("scan"))
    answer = say("predict", str(scan), "--task", TASK, codes=(0, 3, 4))
    assert answer["task"] == TASK and say("replay", str(answer["id"]), str(scan))["same"] is True
    assert say("verify", "--full")["outcome"] == "pass"
    missing = say("trace", str(answer["id"]))["missing"]
    assert isinstance(missing, list)
    assert {str(line).partition(":")[0] for line in missing} <= {"release", "verdict"}, "of servers and the data gate"
    assert not [
        path
        for path in ward.rglob("*")
        if path.is_file() and f"{saved}/ward".encode() in path.read_bytes() and path.name != "oncoloop.db"
    ]


def test_after_the_release_a_backup_restores_it_too(saved: Path, oncoloop: Run, tmp_path: Path) -> None:
    """The ledger names the champion and its release already; the Bento is whole, its lock of packages among it."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert restored(saved, oncoloop, first, *with_keys(saved)).returncode == 0
    sign_in(oncoloop, first)
    assert oncoloop("approve", TASK, "1", "--reason", "read", cwd=first).returncode == 0
    tar, keys = str(tmp_path / "next.tar"), str(tmp_path / "next.keys")
    arguments = ("backup", tar, "--keys", keys, "--passphrase-file", str(saved / "passphrase"))
    assert oncoloop(*arguments, cwd=first).returncode == 0
    shutil.rmtree(first)
    arguments = ("restore", tar, str(second), "--keys", keys, "--passphrase-file", str(saved / "passphrase"))
    assert oncoloop(*arguments, cwd=tmp_path).returncode == 0
    packed = next((second / "var/bentoml/bentos/oncoloop").glob("*/src"))
    assert (packed / "serving/release.lock").is_file()
    done = oncoloop("verify", "--full", cwd=second)
    assert done.returncode == 0, done.stdout


def test_without_its_keys_a_workspace_says_what_that_costs_and_makes_none(
    saved: Path, oncoloop: Run, tmp_path: Path
) -> None:
    ward = tmp_path / "ward"
    done = restored(saved, oncoloop, ward)
    assert done.returncode == 0, done.stderr
    for said in (
        "the key pseudonym is missing; without it later scans of a known patient get a new pseudonym",
        "the key signin is missing",
        f"restore them: oncoloop restore FILE.keys {ward}",
    ):
        assert said in done.stdout
    assert oncoloop("verify", cwd=ward).returncode == 0 and oncoloop("status", cwd=ward).returncode == 0
    refused = oncoloop("init", str(ward), cwd=tmp_path)
    assert refused.returncode == 1 and "the key pseudonym is missing" in refused.stderr
    assert "--new-keys" in refused.stderr and not list(ward.glob("var/keys/*"))
    wrong = tmp_path / "wrong"
    wrong.write_text("something else entirely\n")
    for passphrase, code in ((wrong, 1), (saved / "passphrase", 0)):
        arguments = ("restore", str(saved / "ward.keys"), str(ward), "--passphrase-file", str(passphrase))
        done = oncoloop(*arguments, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert bool(list(ward.glob("var/keys/*"))) is (code == 0)
    assert not (ward / "var/keys.json").exists()
    assert oncoloop("login", "ines", cwd=ward).returncode == 0
    assert stat.S_IMODE((ward / "var/keys/signin").stat().st_mode) == 0o600


def test_keys_that_are_lost_are_given_up_by_a_person_and_the_ledger_says_so(
    saved: Path, oncoloop: Run, tmp_path: Path
) -> None:
    ward = tmp_path / "ward"
    assert restored(saved, oncoloop, ward).returncode == 0
    assert oncoloop("init", str(ward), "--new-keys", cwd=tmp_path).returncode == 0
    assert (ward / "var/keys/pseudonym").is_file()
    done = oncoloop("restore", str(saved / "ward.keys"), str(ward), *with_keys(saved)[2:], cwd=tmp_path)
    assert done.returncode == 1 and "nothing is overwritten" in done.stderr
    database = (ward / "var/oncoloop.db").read_bytes()
    assert b"keys.lost" in database + b"".join(path.read_bytes() for path in ward.glob("var/oncoloop.db-wal"))


@pytest.mark.parametrize(
    ("name", "kind", "leads"),
    [
        ("../outside", tarfile.REGTYPE, ""),
        ("/tmp/outside", tarfile.REGTYPE, ""),
        ("in/../../outside", tarfile.DIRTYPE, ""),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("link", tarfile.SYMTYPE, "../outside"),
        ("hard", tarfile.LNKTYPE, "../outside"),
        ("pipe", tarfile.FIFOTYPE, ""),
        ("disk", tarfile.BLKTYPE, ""),
    ],
)
def test_a_backup_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str, kind: bytes, leads: str) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, leads
        tar.addfile(member)
    with pytest.raises(Fault):
        backup.restore(tmp_path / "evil.tar", tmp_path / "ward")
    assert {path.name for path in tmp_path.rglob("*")} <= {"evil.tar", "ward"} and not Path("/tmp/outside").exists()


def test_keys_of_another_workspace_are_refused(saved: Path, oncoloop: Run, tmp_path: Path) -> None:
    other, ward = tmp_path / "other", tmp_path / "ward"
    assert oncoloop("init", str(other), cwd=tmp_path).returncode == 0
    keys = str(tmp_path / "other.keys")
    arguments = ("backup", str(tmp_path / "o.tar"), "--keys", keys, "--passphrase-file", str(saved / "passphrase"))
    assert oncoloop(*arguments, cwd=other).returncode == 0
    done = restored(saved, oncoloop, ward, "--keys", keys, "--passphrase-file", str(saved / "passphrase"))
    assert done.returncode == 1 and "these are not the keys of this workspace" in done.stderr
    assert not list(ward.iterdir()), "what was unpacked is taken away, so that the command can be given again"


def test_a_passphrase_is_neither_short_nor_an_argument(saved: Path, oncoloop: Run, tmp_path: Path) -> None:
    ward, short = tmp_path / "ward", tmp_path / "short"
    assert oncoloop("init", str(ward), cwd=tmp_path).returncode == 0
    short.write_text("short\n")
    tar, keys = str(tmp_path / "a.tar"), str(tmp_path / "a.keys")
    done = oncoloop("backup", tar, "--keys", keys, "--passphrase-file", str(short), cwd=ward)
    assert done.returncode == 1 and "take 12 or more" in done.stderr
    done = oncoloop("backup", tar, "--keys", keys, cwd=ward)
    assert done.returncode == 1 and "no terminal to ask for the passphrase" in done.stderr
    assert not Path(tar).exists() and not Path(keys).exists()


def test_a_changed_file_of_keys_is_refused(saved: Path, tmp_path: Path) -> None:
    record = json.loads((saved / "ward.keys").read_text())
    assert set(key_backup.unseal(saved / "ward.keys", PASSPHRASE)) >= {"pseudonym", "signin", "signature"}
    changed = tmp_path / "changed.keys"
    for name in ("keys", "salt", "nonce"):
        value = record[name]
        changed.write_text(json.dumps(record | {name: ("0" if value[0] != "0" else "1") + value[1:]}))
        with pytest.raises(key_backup.Fault, match="can't be opened"):
            key_backup.unseal(changed, PASSPHRASE)


def open_modes(folder: Path) -> dict[str, str]:
    """Files and folders below a folder that somebody besides their owner may read or write."""
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    return {str(path): oct(path.stat().st_mode) for path in paths if path.stat().st_mode & 0o077}


def test_all_that_a_command_makes_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Under the usual umask 022. DVC opens one folder of its own to all, in folders that nobody else enters."""

    def run(*arguments: str) -> None:
        command = [services.program("oncoloop"), *arguments]
        environment = clean() | {"HOME": str(tmp_path / "nobody")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, umask=0o022)
        assert done.returncode == 0, done.stderr

    ward = str(tmp_path / "ward")
    run("init", ward)
    run("user", "add", "ines", "--role", "engineer", "-C", ward)
    run("status", "-C", ward)
    run("backup", str(tmp_path / "ward.tar"), "-C", ward)
    run("restore", str(tmp_path / "ward.tar"), str(tmp_path / "again"))
    assert set(open_modes(tmp_path)) <= {f"{ward}/var/cache/dvc/repo", f"{tmp_path}/again/var/cache/dvc/repo"}


@pytest.mark.parametrize(
    "entry",
    ["from desk.app import create; create()", "from serving.bundle.launch import main; main('oncoloop:none', [])"],
)
def test_servers_make_files_for_their_owner_alone(tmp_path: Path, entry: str) -> None:
    code = f"import atexit, pathlib; atexit.register(pathlib.Path('made').touch); {entry}"
    command = [services.program("python"), "-c", code]
    subprocess.run(
        command, cwd=tmp_path, env=clean() | {"ONCOLOOP_HOME": str(tmp_path / "var")}, capture_output=True, umask=0o022
    )
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600
