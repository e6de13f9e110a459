"""The completion scripts, in the shells themselves."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import cli
from tests.pipelines.conftest import Run

BASH = """
source ./script
compopt() { :; }
COMP_LINE="$*" COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_POINT=${#COMP_LINE}
_shtab_oncoloop oncoloop "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """PS1='> '; unset zle_bracketed_paste
autoload -Uz compinit && compinit -u -D; eval "$(<script)"
PS1='ready> '
"""


@pytest.fixture
def script_folder(request: pytest.FixtureRequest, tmp_path: Path, oncoloop: Run) -> Path:
    """A folder with the script of the shell `request.param` and one scan."""
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    process = oncoloop("completion", request.param, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    (tmp_path / "script").write_text(process.stdout, encoding="utf-8")
    (tmp_path / "scan.dcm").touch()
    return tmp_path


def bash_candidates(folder: Path, *words: str) -> set[str]:
    """What bash offers for the last of these words."""
    process = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return set(process.stdout.split())


@pytest.mark.parametrize("script_folder", ["bash"], indirect=True)
def test_bash_completes_commands_options_choices_and_files(script_folder: Path) -> None:
    assert (
        bash_candidates(script_folder, "oncoloop", "re")
        == {name for name in cli.COMMANDS if name.startswith("re")}
        >= {"retrain", "replay"}
    )
    assert bash_candidates(script_folder, "oncoloop", "retrain", "--") == {
        "--help",
        "--task",
        "--reason",
        "--pool",
        "--json",
        "--workspace",
    }
    assert bash_candidates(script_folder, "oncoloop", "data", "q") == {"quality"}
    assert bash_candidates(script_folder, "oncoloop", "predict", "sc") == {"scan.dcm", "script"}


@pytest.mark.parametrize("script_folder", ["fish"], indirect=True)
def test_fish_completes_commands_options_choices_and_files(script_folder: Path) -> None:
    def candidates(line: str) -> set[str]:
        command = ["fish", "--no-config", "-c", f"source ./script; complete -C '{line}'"]
        output = subprocess.run(command, cwd=script_folder, capture_output=True, text=True, check=True).stdout
        return {candidate.split("\t")[0] for candidate in output.splitlines()}

    assert candidates("oncoloop re") == {name for name in cli.COMMANDS if name.startswith("re")}
    assert {"--task", "--reason", "--pool"} <= candidates("oncoloop retrain --")
    assert candidates("oncoloop data q") == {"quality"}
    assert "scan.dcm" in candidates("oncoloop predict sc")


@pytest.mark.parametrize("script_folder", ["zsh"], indirect=True)
@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ("oncoloop re", {name for name in cli.COMMANDS if name.startswith("re")}),
        ("oncoloop retrain --", {"--task", "--reason", "--pool"}),
        ("oncoloop data q", {"quality"}),
        ("oncoloop predict sca", {"scan.dcm"}),
    ],
)
def test_zsh_completes_commands_options_choices_and_files(script_folder: Path, line: str, candidates: set[str]) -> None:
    terminal, shell_side = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "ZDOTDIR": str(script_folder)}
    (script_folder / ".zshrc").write_text(ZSH, encoding="utf-8")
    with subprocess.Popen(
        ["zsh", "-d", "-i"],
        cwd=script_folder,
        env=environment,
        stdin=shell_side,
        stdout=shell_side,
        stderr=shell_side,
        start_new_session=True,
    ) as shell:
        try:
            assert "ready> " in read_until(terminal, lambda text: "ready> " in text)
            os.write(terminal, f"{line}\t\t".encode())
            text = read_until(terminal, lambda text: candidates <= words_of(text))
        finally:
            shell.kill()
            os.close(shell_side)
            os.close(terminal)
    assert candidates <= words_of(text), text


def words_of(text: str) -> set[str]:
    """The words of a terminal's output, without control sequences."""
    return set(re.findall(r"[\w.-]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", " ", text)))


def read_until(terminal: int, is_complete: Callable[[str], bool], seconds: float = 20) -> str:
    """What a terminal prints until this is true of it, at most for some seconds."""
    text, deadline = "", time.monotonic() + seconds
    while not is_complete(text) and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            text += os.read(terminal, 4096).decode(errors="replace")
    return text


def test_another_shell_is_refused(tmp_path: Path, oncoloop: Run) -> None:
    process = oncoloop("completion", "cmd", cwd=tmp_path)
    assert process.returncode == 2
    assert "invalid choice: 'cmd'" in process.stderr
