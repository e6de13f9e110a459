"""Backup and restore in another folder, the separate file of encrypted keys, and file permissions."""

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
from tests.pipelines.conftest import Run, clean_environment
from tests.pipelines.small_workspace import TASK

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(scope="module")
def saved(small_ward: Path, oncoloop: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a backup and a file of keys; their workspace is deleted and the original is hidden."""
    folder = tmp_path_factory.mktemp("saved")
    workspace_folder = small_workspace.move(small_ward, folder / "ward")
    (folder / "passphrase").write_text(f"{PASSPHRASE}\n")
    hidden_original = small_ward.rename(small_ward.with_name("hidden"))
    try:
        for arguments in (
            ["user", "add", "ines", "--role", "engineer"],
            ["backup", "../ward.tar", "--keys", "../ward.keys", "--passphrase-file", "../passphrase"],
        ):
            process = oncoloop(*arguments, cwd=workspace_folder)
            assert process.returncode == 0, process.stderr
        shutil.rmtree(workspace_folder)
        yield folder
    finally:
        hidden_original.rename(small_ward)


def restore_backup(saved: Path, oncoloop: Run, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = ("restore", str(saved / "ward.tar"), str(folder), *options)
    return oncoloop(*arguments, cwd=folder.parent)


def sign_in(oncoloop: Run, folder: Path) -> None:
    """Sign in as the engineer: a restored workspace has no sign-in."""
    assert "oncoloop signin" in oncoloop("approve", TASK, "1", "--reason", "read", cwd=folder).stderr
    assert oncoloop("signin", oncoloop("login", "ines", cwd=folder).stdout.strip(), cwd=folder).returncode == 0


def key_options(saved: Path) -> tuple[str, ...]:
    return ("--keys", str(saved / "ward.keys"), "--passphrase-file", str(saved / "passphrase"))


def names(tar: Path) -> set[str]:
    with tarfile.open(tar) as archive:
        return set(archive.getnames())


def test_a_backup_is_private_and_contains_no_key(saved: Path) -> None:
    for name in ("ward.tar", "ward.keys"):
        assert stat.S_IMODE((saved / name).stat().st_mode) == 0o600, name
    assert not [name for name in names(saved / "ward.tar") if name.startswith("var/keys/")]
    assert not list(saved.glob("*.part"))
    assert PASSPHRASE not in (saved / "ward.keys").read_text()


def test_a_backup_contains_dvc_lock_and_no_locks_of_processes(saved: Path) -> None:
    locks = {name for name in names(saved / "ward.tar") if name.endswith(".lock")}
    assert "dvc.lock" in locks
    assert not [name for name in locks if name.startswith((".git/", ".dvc/tmp", "var/run"))]


def test_a_waiting_version_is_approved_and_released_after_a_restore_in_another_folder(
    saved: Path, oncoloop: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "another place" / "ward 8"
    folder.parent.mkdir()
    process = restore_backup(saved, oncoloop, folder, *key_options(saved))
    assert process.returncode == 0, process.stderr
    assert (folder / "dvc.lock").is_file()

    def run_json(*arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, object]:
        process = oncoloop(*arguments, "--json", cwd=folder)
        assert process.returncode in codes, f"{arguments}: {process.stderr[-2000:]}"
        return dict(json.loads(process.stdout))

    assert run_json("verify")["outcome"] == "pass"
    waiting = run_json("status")["waiting"]
    assert isinstance(waiting, dict) and waiting[TASK] == ["1"]
    sign_in(oncoloop, folder)
    models = run_json("retrain").get("models", [])
    assert isinstance(models, list)
    assert [(model["version"], model["new"]) for model in models] in ([], [("1", False)]), "no model is fitted again"
    assert run_json("approve", TASK, "1", "--reason", "read after the restore")["release"]
    scan = next(path for path in sorted((folder / "inbox/first").iterdir()) if path.name.startswith("scan"))
    answer = run_json("predict", str(scan), "--task", TASK, codes=(0, 3, 4))
    assert answer["task"] == TASK and run_json("replay", str(answer["id"]), str(scan))["same"] is True
    assert run_json("verify", "--full")["outcome"] == "pass"
    missing = run_json("trace", str(answer["id"]))["missing"]
    assert isinstance(missing, list)
    assert {str(line).partition(":")[0] for line in missing} <= {"release", "verdict"}, (
        "parts of servers and of the data gate"
    )
    assert not [
        path
        for path in folder.rglob("*")
        if path.is_file() and f"{saved}/ward".encode() in path.read_bytes() and path.name != "oncoloop.db"
    ]


def test_a_backup_restores_the_release_too(saved: Path, oncoloop: Run, tmp_path: Path) -> None:
    """The ledger names champion and release; the restored Bento is complete, with its lock of packages."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert restore_backup(saved, oncoloop, first, *key_options(saved)).returncode == 0
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
    process = oncoloop("verify", "--full", cwd=second)
    assert process.returncode == 0, process.stdout


def test_a_workspace_restored_without_keys_names_the_consequences_and_makes_no_keys(
    saved: Path, oncoloop: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "ward"
    process = restore_backup(saved, oncoloop, folder)
    assert process.returncode == 0, process.stderr
    for sentence in (
        "the key pseudonym is missing; without it later scans of a known patient get a new pseudonym",
        "the key signin is missing",
        f"restore them: oncoloop restore FILE.keys {folder}",
    ):
        assert sentence in process.stdout
    assert oncoloop("verify", cwd=folder).returncode == 0 and oncoloop("status", cwd=folder).returncode == 0
    refused = oncoloop("init", str(folder), cwd=tmp_path)
    assert refused.returncode == 1 and "the key pseudonym is missing" in refused.stderr
    assert "--new-keys" in refused.stderr and not list(folder.glob("var/keys/*"))
    wrong = tmp_path / "wrong"
    wrong.write_text("something else entirely\n")
    for passphrase, code in ((wrong, 1), (saved / "passphrase", 0)):
        arguments = ("restore", str(saved / "ward.keys"), str(folder), "--passphrase-file", str(passphrase))
        process = oncoloop(*arguments, cwd=tmp_path)
        assert process.returncode == code, process.stderr
        assert bool(list(folder.glob("var/keys/*"))) is (code == 0)
    assert not (folder / "var/keys.json").exists()
    assert oncoloop("login", "ines", cwd=folder).returncode == 0
    assert stat.S_IMODE((folder / "var/keys/signin").stat().st_mode) == 0o600


def test_the_ledger_records_that_a_person_accepts_the_loss_of_keys(saved: Path, oncoloop: Run, tmp_path: Path) -> None:
    folder = tmp_path / "ward"
    assert restore_backup(saved, oncoloop, folder).returncode == 0
    assert oncoloop("init", str(folder), "--new-keys", cwd=tmp_path).returncode == 0
    assert (folder / "var/keys/pseudonym").is_file()
    process = oncoloop("restore", str(saved / "ward.keys"), str(folder), *key_options(saved)[2:], cwd=tmp_path)
    assert process.returncode == 1 and "nothing is overwritten" in process.stderr
    database = (folder / "var/oncoloop.db").read_bytes()
    assert b"keys.lost" in database + b"".join(path.read_bytes() for path in folder.glob("var/oncoloop.db-wal"))


@pytest.mark.parametrize(
    ("name", "kind", "target"),
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
def test_a_backup_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str, kind: bytes, target: str) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        tar.addfile(member)
    with pytest.raises(Fault):
        backup.restore(tmp_path / "evil.tar", tmp_path / "ward")
    assert {path.name for path in tmp_path.rglob("*")} <= {"evil.tar", "ward"} and not Path("/tmp/outside").exists()


def test_keys_of_another_workspace_are_refused(saved: Path, oncoloop: Run, tmp_path: Path) -> None:
    other, folder = tmp_path / "other", tmp_path / "ward"
    assert oncoloop("init", str(other), cwd=tmp_path).returncode == 0
    keys = str(tmp_path / "other.keys")
    arguments = ("backup", str(tmp_path / "o.tar"), "--keys", keys, "--passphrase-file", str(saved / "passphrase"))
    assert oncoloop(*arguments, cwd=other).returncode == 0
    process = restore_backup(saved, oncoloop, folder, "--keys", keys, "--passphrase-file", str(saved / "passphrase"))
    assert process.returncode == 1 and "these are not the keys of this workspace" in process.stderr
    assert not list(folder.iterdir()), "extracted files are deleted, so that the command can be repeated"


def test_a_passphrase_is_long_enough_and_not_an_argument(saved: Path, oncoloop: Run, tmp_path: Path) -> None:
    folder, short = tmp_path / "ward", tmp_path / "short"
    assert oncoloop("init", str(folder), cwd=tmp_path).returncode == 0
    short.write_text("short\n")
    tar, keys = str(tmp_path / "a.tar"), str(tmp_path / "a.keys")
    process = oncoloop("backup", tar, "--keys", keys, "--passphrase-file", str(short), cwd=folder)
    assert process.returncode == 1 and "take 12 or more" in process.stderr
    process = oncoloop("backup", tar, "--keys", keys, cwd=folder)
    assert process.returncode == 1 and "no terminal to ask for the passphrase" in process.stderr
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


def modes_open_to_others(folder: Path) -> dict[str, str]:
    """Files and folders below a folder that others than their owner may read or write, with their modes."""
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    return {str(path): oct(path.stat().st_mode) for path in paths if path.stat().st_mode & 0o077}


def test_all_files_of_a_command_are_for_their_owner_only(tmp_path: Path) -> None:
    """With the usual umask 022. DVC opens one of its folders to all, inside folders that are closed to others."""

    def run(*arguments: str) -> None:
        command = [services.program("oncoloop"), *arguments]
        environment = clean_environment() | {"HOME": str(tmp_path / "nobody")}
        process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, umask=0o022)
        assert process.returncode == 0, process.stderr

    folder = str(tmp_path / "ward")
    run("init", folder)
    run("user", "add", "ines", "--role", "engineer", "-C", folder)
    run("status", "-C", folder)
    run("backup", str(tmp_path / "ward.tar"), "-C", folder)
    run("restore", str(tmp_path / "ward.tar"), str(tmp_path / "again"))
    assert set(modes_open_to_others(tmp_path)) <= {
        f"{folder}/var/cache/dvc/repo",
        f"{tmp_path}/again/var/cache/dvc/repo",
    }


@pytest.mark.parametrize(
    "entry",
    ["from desk.app import create; create()", "from serving.bundle.launch import main; main('oncoloop:none', [])"],
)
def test_all_files_of_servers_are_for_their_owner_only(tmp_path: Path, entry: str) -> None:
    code = f"import atexit, pathlib; atexit.register(pathlib.Path('made').touch); {entry}"
    command = [services.program("python"), "-c", code]
    subprocess.run(
        command,
        cwd=tmp_path,
        env=clean_environment() | {"ONCOLOOP_HOME": str(tmp_path / "var")},
        capture_output=True,
        umask=0o022,
    )
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600
