"""The command line as a user meets it: help, exit codes, one sentence for every mistake."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from data.record import MaskMeaning
from pipelines import cli, params
from tests.pipelines.conftest import Run


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory, oncoloop: Run) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "ward"
    assert oncoloop("init", str(folder), cwd=folder.parent).returncode == 0
    return folder


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.parser().parse_args([name, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"example: oncoloop {name}" in " ".join(shown.split())
    assert "--json" in shown


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_its_function(name: str) -> None:
    assert callable(cli.command_function(name))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_examples_are_valid_command_lines(name: str) -> None:
    import shlex

    args = cli.parser().parse_args(shlex.split(cli.COMMANDS[name].example)[1:])
    assert isinstance(args, argparse.Namespace)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nonsense"], 2, "invalid choice"),
        (["retrain"], 1, "no admitted batch of any task yet"),
        (["retrain", "--task", "liver"], 1, "there is no task 'liver'"),
        (["ingest", "nowhere"], 1, "does not exist"),
        (["predict", "nothing.dcm"], 1, "nothing.dcm is not a file"),
        (["trace", "5f2c"], 1, "5f2c"),
        (["approve", "lung-ct", "1", "--reason", "read"], 1, "there is no verdict on lung-ct/1"),
        (["rollback", "--reason", "wrong"], 1, "no earlier release"),
        (["watch"], 1, "no champion answers for any task yet"),
        (["login", "nobody"], 1, "nobody"),
        (["user", "add", "mara", "--role", "boss"], 1, "--role must be one of engineer, clinician, auditor"),
        (["data", "diff", "a"], 1, "takes 2 versions"),
        (["data", "checkout", "0000"], 1, "git rev-parse failed"),
        (["schedule"], 1, "no Prefect server runs"),
        (["up", "--only", "coffee"], 1, "up has no service 'coffee'"),
        (["withdraw", "4711", "--reason", "asked"], 1, "no batch and no prediction holds this patient"),
        (["import", "nowhere", "--task", "lung-ct"], 1, "nowhere"),
        (["status", "-C", "nowhere"], 1, "the workspace"),
    ],
)
def test_a_mistake_is_one_sentence(ward: Path, oncoloop: Run, arguments: list[str], code: int, sentence: str) -> None:
    done = oncoloop(*arguments, cwd=ward)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_json_is_alone_on_standard_output(ward: Path, oncoloop: Run) -> None:
    done = oncoloop("status", "--json", cwd=ward)
    assert json.loads(done.stdout)["release"] is None


def test_a_fresh_ledger_is_whole(ward: Path, oncoloop: Run) -> None:
    done = oncoloop("verify", cwd=ward)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "ledger: pass")


def test_init_again_changes_nothing_and_mends_what_is_missing(ward: Path, oncoloop: Run) -> None:
    (ward / "params.yaml").rename(ward / "params.kept")
    broken = oncoloop("status", cwd=ward)
    assert broken.returncode == 1
    assert "params.yaml is missing" in broken.stderr
    (ward / "params.kept").rename(ward / "params.yaml")
    key = (ward / "var/keys/pseudonym").read_bytes() if (ward / "var/keys/pseudonym").exists() else b""
    assert oncoloop("init", str(ward), cwd=ward.parent).stdout.startswith(f"{ward} is a workspace already")
    assert not key or (ward / "var/keys/pseudonym").read_bytes() == key


def test_people_get_a_link_and_programs_a_token(ward: Path, oncoloop: Run) -> None:
    assert oncoloop("user", "add", "ines", "--role", "engineer", cwd=ward).returncode == 0
    link = oncoloop("login", "ines", cwd=ward).stdout.strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:7800/enter\?token=[\w-]{20,}", link)
    assert len(oncoloop("login", "ines", "--token", cwd=ward).stdout.strip()) > 20
    assert "oncoloop signin" in oncoloop("user", "disable", "ines", cwd=ward).stderr
    assert oncoloop("signin", link, cwd=ward).returncode == 0
    assert oncoloop("user", "disable", "ines", cwd=ward).returncode == 0
    assert json.loads(oncoloop("user", "list", "--json", cwd=ward).stdout) == [
        {"name": "ines", "role": "engineer", "active": False, "signed_in": []}
    ]


def test_a_task_is_added_by_its_facts(ward: Path, oncoloop: Run) -> None:
    answers = "liver-ct\nLiver tumour\nliver\nct\nABDOMEN, LIVER\nnormal, tumour\ntumour\n128\n60,300\n0.9\n"
    done = oncoloop("task", "new", cwd=ward, stdin=answers)
    assert done.returncode == 0, done.stderr
    assert "liver-ct" in json.loads(oncoloop("task", "list", "--json", cwd=ward).stdout)
    assert "# All that changes results" in (ward / "params.yaml").read_text()
    assert params.load(ward).task("liver-ct").mask is MaskMeaning.POSITIVE, "the usual answer, where nobody gave one"
    nodules = answers.replace("liver-ct", "nodule-ct").replace("normal, tumour", "benign, tumour")
    assert oncoloop("task", "new", cwd=ward, stdin=f"{nodules}lesion\n").returncode == 0
    assert params.load(ward).task("nodule-ct").mask is MaskMeaning.LESION
    again = oncoloop("task", "new", cwd=ward, stdin=answers)
    assert "exists already" in again.stderr


def test_a_task_with_wrong_facts_leaves_everything_as_it_was(ward: Path, oncoloop: Run) -> None:
    before = (ward / "params.yaml").read_bytes()
    answers = "hip-ct\nHip\nhip\nPET\nHIP\nnormal, bad\nbad\n128\n60,300\n0.9\n"
    done = oncoloop("task", "new", cwd=ward, stdin=answers)
    assert done.returncode == 1
    assert "PET" in done.stderr
    assert (ward / "params.yaml").read_bytes() == before


def test_a_wrong_key_in_the_settings_is_named(ward: Path, oncoloop: Run) -> None:
    path = ward / "params.yaml"
    before = path.read_text()
    path.write_text(before.replace("patience:", "patiance:"))
    done = oncoloop("retrain", cwd=ward)
    path.write_text(before)
    assert (done.returncode, "unknown key fit.patiance" in done.stderr) == (1, True)


def test_a_package_of_the_same_name_in_pythonpath_hides_nothing(
    ward: Path, oncoloop: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data", "serving"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = oncoloop("data", "list", cwd=ward)
    assert done.returncode == 0, done.stderr
