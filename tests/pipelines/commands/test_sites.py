"""The command `site`: what it requires, and what it lists before there is a release."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from lineage import site_hash
from lineage.errors import Fault
from pipelines.commands import sites, users


def arguments(action: str, **given: str) -> argparse.Namespace:
    return argparse.Namespace(**{"action": action, "name": "Birch", "task": "", "batch": "", "reason": ""} | given)


@pytest.mark.parametrize(
    ("action", "given", "missing"),
    [
        ("accept", {"task": "lung-ct"}, "needs --reason, --batch"),
        ("confirm", {"name": "", "reason": "read"}, "needs a name, --task"),
        ("withdraw", {"task": "lung-ct"}, "needs --reason"),
    ],
)
def test_every_missing_argument_is_named_at_once(
    workspace: Path, action: str, given: dict[str, str], missing: str
) -> None:
    assert workspace.is_dir()
    with pytest.raises(Fault, match=missing):
        sites.site(arguments(action, **given))


@pytest.mark.usefixtures("engineer")
def test_a_site_is_judged_with_the_champion_on_an_admitted_batch(workspace: Path) -> None:
    assert workspace.is_dir()
    with pytest.raises(Fault, match="lung-ct has no champion yet"):
        sites.site(arguments("accept", task="lung-ct", batch="first", reason="new"))
    with pytest.raises(Fault, match="there is no task 'liver'"):
        sites.site(arguments("confirm", task="liver", reason="new"))


def test_without_a_release_no_site_is_listed(workspace: Path) -> None:
    assert workspace.is_dir()
    answer = sites.site(argparse.Namespace(action="list"))
    assert answer.result["lung-ct"] == {"is_checked": False, "accepted": [], "waiting": [], "lapsed": []}
    assert "lung-ct: no release yet" in answer.text


def test_only_a_token_has_a_site(workspace: Path, engineer: str) -> None:
    from lineage import accounts

    assert workspace.is_dir()
    with pytest.raises(Fault, match="--site is for a token"):
        users.login(argparse.Namespace(name=engineer, token=False, days=1, site="Birch"))
    token = users.login(argparse.Namespace(name=engineer, token=True, days=1, site="birch")).result["token"]
    assert accounts.token_site(token) == site_hash.hash_site("Birch")
