"""The command line: help, exit codes, and one sentence for every mistake."""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from data.core_types import MaskMeaning
from pipelines import cli, params
from tests.conftest import ROOT
from tests.pipelines.conftest import Run


@pytest.fixture(scope="module")
def workspace_folder(tmp_path_factory: pytest.TempPathFactory, oncoloop: Run) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "ward"
    assert oncoloop("init", str(folder), cwd=folder.parent).returncode == 0
    return folder


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.parser().parse_args([name, "--help"])
    output = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert f"example: oncoloop {name}" in " ".join(output.split())
    assert "--json" in output


def test_the_version_is_that_of_the_installation(tmp_path: Path, oncoloop: Run) -> None:
    process = oncoloop("--version", cwd=tmp_path)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (process.returncode, process.stdout) == (0, f"oncoloop {project['version']}\n")


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
def test_a_mistake_is_one_sentence(
    workspace_folder: Path, oncoloop: Run, arguments: list[str], code: int, sentence: str
) -> None:
    process = oncoloop(*arguments, cwd=workspace_folder)
    assert process.returncode == code, process.stderr
    assert sentence in process.stderr
    assert "Traceback" not in process.stderr
    assert process.stdout == ""


def test_standard_output_contains_only_the_json_result(workspace_folder: Path, oncoloop: Run) -> None:
    process = oncoloop("status", "--json", cwd=workspace_folder)
    assert json.loads(process.stdout)["release"] is None


def test_a_new_ledger_is_verified(workspace_folder: Path, oncoloop: Run) -> None:
    process = oncoloop("verify", cwd=workspace_folder)
    assert (process.returncode, process.stdout.splitlines()[0]) == (0, "ledger: pass")


def test_a_second_init_changes_nothing_and_a_missing_file_is_named(workspace_folder: Path, oncoloop: Run) -> None:
    (workspace_folder / "params.yaml").rename(workspace_folder / "params.kept")
    refused = oncoloop("status", cwd=workspace_folder)
    assert refused.returncode == 1
    assert "params.yaml is missing" in refused.stderr
    (workspace_folder / "params.kept").rename(workspace_folder / "params.yaml")
    key = (
        (workspace_folder / "var/keys/pseudonym").read_bytes()
        if (workspace_folder / "var/keys/pseudonym").exists()
        else b""
    )
    assert oncoloop("init", str(workspace_folder), cwd=workspace_folder.parent).stdout.startswith(
        f"{workspace_folder} is a workspace already"
    )
    assert not key or (workspace_folder / "var/keys/pseudonym").read_bytes() == key


def test_people_get_a_link_and_programs_a_token(workspace_folder: Path, oncoloop: Run) -> None:
    assert oncoloop("user", "add", "ines", "--role", "engineer", cwd=workspace_folder).returncode == 0
    link = oncoloop("login", "ines", cwd=workspace_folder).stdout.strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:7800/enter\?token=[\w-]{20,}", link)
    assert len(oncoloop("login", "ines", "--token", cwd=workspace_folder).stdout.strip()) > 20
    assert "oncoloop signin" in oncoloop("user", "disable", "ines", cwd=workspace_folder).stderr
    assert oncoloop("signin", link, cwd=workspace_folder).returncode == 0
    assert oncoloop("user", "disable", "ines", cwd=workspace_folder).returncode == 0
    assert json.loads(oncoloop("user", "list", "--json", cwd=workspace_folder).stdout) == [
        {"name": "ines", "role": "engineer", "active": False, "signed_in": []}
    ]


def test_a_task_is_added_from_its_facts(workspace_folder: Path, oncoloop: Run) -> None:
    answers = "liver-ct\nLiver tumour\nliver\nct\nABDOMEN, LIVER\nnormal, tumour\ntumour\n128\n60,300\n0.9\n"
    process = oncoloop("task", "new", cwd=workspace_folder, stdin=answers)
    assert process.returncode == 0, process.stderr
    assert "liver-ct" in json.loads(oncoloop("task", "list", "--json", cwd=workspace_folder).stdout)
    assert "# All settings that change results" in (workspace_folder / "params.yaml").read_text()
    assert params.load(workspace_folder).task("liver-ct").mask is MaskMeaning.POSITIVE, (
        "the default, because the answer is missing"
    )
    nodules = answers.replace("liver-ct", "nodule-ct").replace("normal, tumour", "benign, tumour")
    assert oncoloop("task", "new", cwd=workspace_folder, stdin=f"{nodules}lesion\n").returncode == 0
    assert params.load(workspace_folder).task("nodule-ct").mask is MaskMeaning.LESION
    again = oncoloop("task", "new", cwd=workspace_folder, stdin=answers)
    assert "exists already" in again.stderr


def test_a_task_with_wrong_facts_changes_nothing(workspace_folder: Path, oncoloop: Run) -> None:
    before = (workspace_folder / "params.yaml").read_bytes()
    answers = "hip-ct\nHip\nhip\nPET\nHIP\nnormal, bad\nbad\n128\n60,300\n0.9\n"
    process = oncoloop("task", "new", cwd=workspace_folder, stdin=answers)
    assert process.returncode == 1
    assert "PET" in process.stderr
    assert (workspace_folder / "params.yaml").read_bytes() == before


def test_missing_and_unknown_facts_are_named_at_once_with_a_complete_example(
    workspace_folder: Path, oncoloop: Run, tmp_path: Path
) -> None:
    before = (workspace_folder / "params.yaml").read_bytes()
    facts = tmp_path / "facts.yaml"
    facts.write_text("name: kidney-ct\norgan: kidney\nmodalities: CT\nclasses: [normal, cyst]\n")
    process = oncoloop("task", "new", "--facts", str(facts), cwd=workspace_folder)
    assert process.returncode == 1
    assert "lacks title, modality, body_parts, positive, size, window, sensitivity" in process.stderr
    assert "has the unknown modalities" in process.stderr
    example = yaml.safe_load(process.stderr[process.stderr.index("name: kidney-ct") :])
    assert (example["organ"], example["classes"], example["modality"]) == ("kidney", ["normal", "cyst"], "CT")
    assert (workspace_folder / "params.yaml").read_bytes() == before
    absent = oncoloop("task", "new", "--facts", str(tmp_path / "absent.yaml"), cwd=workspace_folder)
    example = yaml.safe_load(absent.stderr[absent.stderr.index("name: liver-ct") :])
    assert set(example) >= {"name", "title", "positive", "sensitivity"}
    for text in ("- a\n", "{", ""):
        facts.write_text(text)
        broken = oncoloop("task", "new", "--facts", str(facts), cwd=workspace_folder)
        assert broken.returncode == 1 and "Traceback" not in broken.stderr


def test_a_wrong_key_in_the_settings_is_named(workspace_folder: Path, oncoloop: Run) -> None:
    path = workspace_folder / "params.yaml"
    before = path.read_text()
    path.write_text(before.replace("patience:", "patiance:"))
    process = oncoloop("retrain", cwd=workspace_folder)
    path.write_text(before)
    assert (process.returncode, "unknown key fit.patiance" in process.stderr) == (1, True)


def test_a_package_of_the_same_name_in_pythonpath_hides_nothing(
    workspace_folder: Path, oncoloop: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data", "serving"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = oncoloop("data", "list", cwd=workspace_folder)
    assert process.returncode == 0, process.stderr
