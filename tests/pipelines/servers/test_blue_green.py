"""Releases change places, stop and lose their workers while users ask without a pause: nobody notices."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lineage import accounts, decisions
from lineage.audit import trace
from lineage.errors import Fault
from lineage.record import database, journal, ledger
from lineage.record.verdict import Outcome, Verdict
from monitoring import window
from pipelines.models import promote, shadow
from pipelines.servers import release_servers
from tests.pipelines import concurrent_users
from tests.pipelines.concurrent_users import Rush, Town

FEW = 100  # answers that show that the users were at work; how many there are is a matter of the machine
TINY = """\
  tiny-mr:
    {title: Tumour on a tiny MR slice, organ: brain, modality: MR, body_parts: [BRAIN], classes: [normal, tumour],
    positive: [tumour], unit: slice, cluster: patient, ordered: false, pixels: {size: 32, window: null},
    pooling: {rule: topk, k: 2}, sensitivity: 0.9, note: ""}
"""


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with concurrent_users.town(tmp_path_factory.mktemp("town")) as made:
        for name in ("eve", "enno"):
            accounts.add(name, "engineer")
        yield made


def test_traffic_moves_there_and_back_and_no_request_is_lost(town: Town) -> None:
    servers = town.supervisor.fleet
    assert servers
    with Rush(town.desk, "ada") as users:
        concurrent_users.build("green", Path("tiny"))
        concurrent_users.wait(lambda: users.told[-1].release == "green", 60)
        took = []
        for aim in ("blue", "green"):
            asked = time.monotonic()
            if aim == "blue":
                assert promote.rollback("eve", "a test") == ("blue", [])
            else:
                decisions.record("release.wanted", aim, {"instead_of": "blue"}, "eve")
            concurrent_users.wait(lambda aim=aim: users.told[-1].release == aim, 10)
            time.sleep(1.0)
            took.append(max(users.since(asked, aim)))
        concurrent_users.build("red", Path("tiny"))
        concurrent_users.wait(lambda: users.told[-1].release == "red", 60)
        concurrent_users.wait(lambda: "blue" not in servers.running and not servers.leaving, 60)
        victim = servers.running["green"].process
        assert victim
        family = [psutil.Process(victim.pid), *psutil.Process(victim.pid).children(recursive=True)]
        for process in family:
            process.kill()
        asked = time.monotonic()
        promote.rollback("eve", "the server before this one has died meanwhile")
        concurrent_users.wait(lambda: users.told[-1].release == "green", 60)
        back = time.monotonic() - asked
        time.sleep(0.5)
    assert {one.status for one in users.told} == {200}, [one for one in users.told if one.status != 200][:3]
    kept, told = concurrent_users.kept_and_told(users)
    assert kept == told and len(set(told)) == len(told) > FEW
    assert max(took) < 5, f"rollback took {took}"
    sys.stdout.write(
        f"moves {[round(one, 2) for one in took]} s, from a dead server {back:.1f} s, {len(told)} answers,"
        f" longest gap {users.longest_gap():.2f} s\n"
    )


def test_workers_are_killed_and_nobody_notices(town: Town) -> None:
    live = release_servers.answering_release()
    assert live
    strong, kills = [], 3 if os.environ.get("ONCOLOOP_SOAK") else 1
    with Rush(town.desk, "bea", users=2) as users:
        for _ in range(kills):
            before = concurrent_users.wait(lambda: (found := town.workers(live)) and len(found) == 2 and found, 30)
            victim = next(iter(before.values()))
            victim.kill()
            killed = time.monotonic()
            concurrent_users.wait(lambda before=before: town.at_work(live) - before.keys(), 30)
            strong.append(time.monotonic() - killed)
            time.sleep(1.0)
    assert {one.status for one in users.told} == {200}, [one for one in users.told if one.status != 200][:3]
    kept, told = concurrent_users.kept_and_told(users)
    assert kept == told and len(set(told)) == len(told) > FEW, "one row for each answer, and none beside them"
    share = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # of the cores that this test shares with others
    assert max(strong) < 15 * share, f"full strength after {strong} s, {share:.1f} as slow as alone"
    assert users.longest_gap() < 5, "the worker that is left goes on"
    sys.stdout.write(
        f"{kills} workers killed: full strength after {[round(one, 1) for one in strong]} s,"
        f" longest gap {users.longest_gap():.2f} s, {len(told)} answers\n"
    )


def test_the_head_process_is_killed_and_nobody_notices(town: Town) -> None:
    """Its workers are orphans then, and go on answering until another server of the release does."""
    servers, live = town.supervisor.fleet, release_servers.answering_release()
    assert servers and live
    concurrent_users.wait(lambda: servers.running[live].healthy, 30)
    former = servers.running[live]
    assert former.process
    with Rush(town.desk, "ida", users=2) as users:
        killed = time.monotonic()
        psutil.Process(former.process.pid).kill()
        concurrent_users.wait(lambda: release_servers._live_release() not in (None, (live, former.url)), 60)
        moved = time.monotonic() - killed
        concurrent_users.wait(lambda: not former.process.members(), 60)
        ended = time.monotonic() - killed
        time.sleep(0.5)
    assert release_servers._live_release() == (live, servers.running[live].url) and former not in servers.leaving
    assert {one.status for one in users.told} == {200}, [one for one in users.told if one.status != 200][:3]
    assert {one.release for one in users.told} == {live}, "no other model has answered meanwhile"
    kept, told = concurrent_users.kept_and_told(users)
    assert kept == told and len(set(told)) == len(told) > FEW
    assert users.longest_gap() < 5
    sys.stdout.write(
        f"head killed: traffic moved after {moved:.1f} s, its workers ended after {ended:.1f} s,"
        f" longest gap {users.longest_gap():.2f} s, {len(told)} answers\n"
    )


def test_the_desk_is_killed_and_answers_again_within_seconds(town: Town) -> None:
    desk = town.supervisor.services["desk"]
    concurrent_users.wait(lambda: desk.healthy, 30)
    assert desk.process
    killed, number = time.monotonic(), desk.process.pid
    psutil.Process(number).kill()
    concurrent_users.wait(lambda: desk.process and desk.process.pid != number and desk.healthy, 30)
    with Rush(town.desk, "jon", users=2) as users:
        pass
    assert users.told[0].at - killed < 5, f"answered again after {users.told[0].at - killed:.1f} s"
    assert {one.status for one in users.told} == {200}


def test_a_shadow_answers_behind_and_nobody_sees_it(town: Town) -> None:
    live = release_servers.answering_release()
    concurrent_users.build("dark", Path("tiny"), version="2", kind="shadow.built")
    shadow.begin(concurrent_users.TASK, "2", "dark", "enno")
    concurrent_users.wait(lambda: ledger.events("shadow.served"), 60)
    time.sleep(1.0)
    with Rush(town.desk, "cid", users=2) as users:
        time.sleep(3.0)
    concurrent_users.wait(lambda: concurrent_users.settled(), 60)
    assert {(one.status, one.release) for one in users.told} == {(200, live)}, "nobody is told what a shadow said"
    kept, told = concurrent_users.kept_and_told(users)
    assert kept == told, "a real answer has one row, and a shadow has none among those of the person"
    behind = journal.rows(shadows=True)
    assert set(behind["release"]) == {"dark"} and set(behind["actor"]) == {accounts.SHADOW}
    assert set(behind["shadows"]) <= set(told) and behind["shadows"].is_unique and len(behind) > 20
    assert journal.count() == len(database.fetch(database.journal.select())) - len(behind)
    assert not set(window.window(concurrent_users.TASK)["id"]) & set(behind["id"]), "a watch does not see it"
    assert "shown to nobody" in trace.render(trace.trace(behind["id"][0]))


def test_the_comparison_is_a_verdict_and_a_failed_one_is_not_approved(town: Town) -> None:
    tasks = (Path("params.yaml").read_text()).replace("  brain-mr:\n", TINY + "  brain-mr:\n")
    Path("params.yaml").write_text(tasks)
    verdict = shadow.stop("enno")
    seen = journal.rows(shadows=True)
    assert verdict.gate == "shadow" and verdict.figures["pairs"] == len(seen)
    assert verdict.figures["agreement"]["value"] == 1.0, "the same network says the same"
    assert verdict.outcome is Outcome.INCONCLUSIVE and "clusters" in verdict.reasons[0], "one patient is too few"
    assert ledger.events("verdict", "tiny-mr/2 in shadow")[-1].payload["figures"]["pairs"] == len(seen)
    assert shadow.wanted() is None
    concurrent_users.wait(lambda: "dark" not in town.supervisor.fleet.running, 30)  # type: ignore[union-attr]
    ledger.record(Verdict("training", "tiny-mr/2", Outcome.PASS, ("said so by the test",)))
    ledger.record(Verdict("shadow", "tiny-mr/2 in shadow", Outcome.FAIL, ("it withholds more",)))
    with pytest.raises(Fault, match="it withholds more; it can't be approved"):
        promote.approve("tiny-mr", "2", "enno", "looks good")
    assert not ledger.events("approval", "tiny-mr/2")
