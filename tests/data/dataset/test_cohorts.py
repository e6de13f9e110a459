from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from data.batch.withdrawal import blinded, changed_row, marked
from data.dataset.cohorts import COHORTS, append_cohorts, assign, few, named, read_cohorts, write_cohorts
from data.record import Side, Task
from data.settings import SplitSettings
from lineage.errors import Fault
from lineage.fingerprint import text_sha256
from lineage.patient_hash import mark
from lineage.record import database

SETTINGS = SplitSettings(seed=7, test=0.3, validation=0.2)


def manifest(clusters: dict[str, tuple[list[str], str]], key: str = "") -> pd.DataFrame:
    """Units of clusters: name -> (labels of its units, site). The content depends on the name, not on `key`."""
    rows = [
        {"cluster": key + name, "label": label, "site": site, "pixels_blake3": text_sha256(f"{name} {number}")}
        for name, (labels, site) in clusters.items()
        for number, label in enumerate(labels)
    ]
    return pd.DataFrame(rows)


def people(count: int, label: str, site: str = "A", prefix: str = "") -> dict[str, tuple[list[str], str]]:
    return {f"{prefix}{label}{number}": ([label], site) for number in range(count)}


@pytest.fixture
def nobody(tmp_path: Path) -> pd.DataFrame:
    return read_cohorts(tmp_path / "none.csv")


def sides(rows: pd.DataFrame, start: str = "") -> Counter[str]:
    return Counter(rows.loc[rows["cluster"].str.startswith(start), "side"])


def test_each_class_and_the_whole_come_out_in_the_wanted_shares(lung: Task, nobody: pd.DataFrame) -> None:
    table = manifest(people(50, "normal") | people(20, "benign") | people(30, "malignant"))
    rows = assign(table, nobody, SETTINGS, 1, "first", lung)
    assert tuple(rows.columns) == COHORTS
    assert sides(rows, "normal") == {"training": 25, "test": 15, "validation": 10}
    assert sides(rows, "benign") == {"training": 10, "test": 6, "validation": 4}
    assert set(rows["batch"]) == {"first"} and set(rows["epoch"]) == {1} and set(rows["task"]) == {"lung-ct"}


def test_the_order_of_rows_and_the_pseudonym_key_move_nobody(lung: Task, nobody: pd.DataFrame) -> None:
    clusters = people(20, "normal") | people(9, "malignant")
    first = assign(manifest(clusters), nobody, SETTINGS, 1, "b", lung)
    shuffled = manifest(clusters).sample(frac=1, random_state=3)
    assert assign(shuffled, nobody, SETTINGS, 1, "b", lung)["side"].tolist() == first["side"].tolist()
    other_key = assign(manifest(clusters, key="K"), nobody, SETTINGS, 1, "b", lung)
    assert other_key["cluster"].str[1:].tolist() == first["cluster"].tolist()
    assert other_key["side"].tolist() == first["side"].tolist()
    other_seed = assign(manifest(clusters), nobody, replace(SETTINGS, seed=8), 1, "b", lung)
    assert other_seed["side"].tolist() != first["side"].tolist()


def test_files_written_otherwise_move_nobody_and_a_shared_blank_slice_makes_no_tie(
    lung: Task, nobody: pd.DataFrame
) -> None:
    """The same pixels in files of other bytes get the same sides; patients who share a blank slice keep their own."""
    table = manifest(people(20, "normal") | people(9, "malignant"))
    written = [
        assign(table.assign(sha256=[f"{way} {row}" for row in range(29)]), nobody, SETTINGS, 1, "b", lung)
        for way in ("zlib", "zlib-ng")
    ]
    assert written[0]["side"].tolist() == written[1]["side"].tolist()
    blank = table.assign(pixels_blake3="0" * 64)
    both = pd.concat([table, blank], ignore_index=True)
    other_key = both.assign(cluster=both["cluster"].map(lambda name: text_sha256(name)[:8]))
    named = {text_sha256(name)[:8]: name for name in table["cluster"]}
    dealt, again = (assign(units, nobody, SETTINGS, 1, "b", lung) for units in (both, other_key))
    assert dict(zip(again["cluster"].map(named), again["side"], strict=True)) == dict(
        zip(dealt["cluster"], dealt["side"], strict=True)
    )


def test_three_clusters_of_a_class_are_enough_to_train_validate_and_test_it(lung: Task, nobody: pd.DataFrame) -> None:
    for settings in (SETTINGS, SplitSettings(seed=7, test=0.1, validation=0.1)):
        rows = assign(manifest(people(30, "normal") | people(3, "benign")), nobody, settings, 1, "b", lung)
        assert sides(rows, "benign") == {"training": 1, "test": 1, "validation": 1}


def test_many_sites_with_one_patient_each_still_reach_every_side(lung: Task, nobody: pd.DataFrame) -> None:
    clusters = {f"m{site}": (["malignant"], f"site {site}") for site in range(20)}
    found = sides(assign(manifest(clusters), nobody, SETTINGS, 1, "b", lung))
    assert min(found[side] for side in Side) >= 3 and found["training"] >= 8


def test_a_new_site_is_tested_too(lung: Task, nobody: pd.DataFrame) -> None:
    first = assign(manifest(people(40, "normal", "A")), nobody, SETTINGS, 1, "a", lung)
    second = assign(manifest(people(10, "normal", "B", "b")), first, SETTINGS, 2, "b", lung)
    assert sides(second)["test"] == 3 and sides(second)["validation"] >= 1


def test_a_cluster_that_has_a_side_is_never_assigned_again(lung: Task, nobody: pd.DataFrame) -> None:
    clusters = people(12, "normal")
    first = assign(manifest(clusters), nobody, SETTINGS, 1, "a", lung)
    assert assign(manifest(clusters), first, SETTINGS, 2, "b", lung).empty
    grown = assign(manifest(clusters | people(3, "malignant")), first, SETTINGS, 2, "b", lung)
    assert list(grown["cluster"]) == ["malignant0", "malignant1", "malignant2"]
    assert set(grown["epoch"]) == {2}


def test_the_worst_label_of_a_cluster_decides_its_stratum(lung: Task, nobody: pd.DataFrame) -> None:
    table = manifest({"x": (["normal", "malignant", "benign"], "A"), "y": (["normal", "benign"], "A")})
    rows = assign(table, nobody, SETTINGS, 1, "b", lung).set_index("cluster")
    assert list(rows["stratum"]) == ["malignant|A", "benign|A"]


def test_a_side_without_a_share_stays_empty(lung: Task, nobody: pd.DataFrame) -> None:
    rows = assign(manifest(people(20, "normal")), nobody, SplitSettings(7, 0.0, 0.2), 1, "b", lung)
    assert "test" not in set(rows["side"])
    with pytest.raises(Fault, match="must be shares"):
        assign(manifest(people(20, "normal")), nobody, SplitSettings(7, 0.7, 0.5), 1, "b", lung)


def test_a_split_by_image_is_refused(lung: Task, nobody: pd.DataFrame) -> None:
    with pytest.raises(Fault, match="`cluster: image` would put pictures of one patient on both sides"):
        assign(manifest(people(3, "normal")), nobody, SETTINGS, 1, "b", replace(lung, cluster="image"))


def test_the_table_on_disk_only_grows(lung: Task, nobody: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "cohorts" / "lung-ct.csv"
    first = assign(manifest(people(5, "normal")), nobody, SETTINGS, 1, "a", lung)
    append_cohorts(path, first)
    before = path.read_text()
    path.write_text(before.removesuffix("\n"))  # as an editor may leave it: a new row must not join the last one
    second = assign(manifest(people(5, "benign")), read_cohorts(path), SETTINGS, 2, "b", lung)
    append_cohorts(path, second)
    assert path.read_text().startswith(before)
    pd.testing.assert_frame_equal(read_cohorts(path), marked(pd.concat([first, second], ignore_index=True)))
    assert not [name for name in (*first["cluster"], *second["cluster"]) if f",{name}," in path.read_text()]
    assert assign(manifest(people(5, "normal")), read_cohorts(path), SETTINGS, 3, "c", lung).empty
    with pytest.raises(Fault, match="already have a side"):
        append_cohorts(path, first.head(1))
    assert [entry.name for entry in path.parent.iterdir()] == ["lung-ct.csv"]


def test_the_names_come_back_from_the_manifests(lung: Task, nobody: pd.DataFrame, tmp_path: Path) -> None:
    table = manifest(people(6, "normal"))
    path, batch = tmp_path / "lung-ct.csv", tmp_path / "first"
    batch.mkdir()
    table.iloc[:4].to_csv(batch / "manifest.csv", index=False)
    first = assign(table, nobody, SETTINGS, 1, "first", lung)
    append_cohorts(path, first)
    told = named(read_cohorts(path), [batch])["cluster"].tolist()
    assert told == [name if name in set(table["cluster"][:4]) else mark(name) for name in first["cluster"]]


def test_a_table_of_before_goes_on_under_marks(lung: Task, nobody: pd.DataFrame, tmp_path: Path) -> None:
    """Its first lines named clusters; a row that changed its side is still found."""
    path = tmp_path / "lung-ct.csv"
    before = assign(manifest(people(5, "normal")), nobody, SETTINGS, 1, "a", lung)
    before.to_csv(path, index=False)
    assert assign(manifest(people(5, "normal")), read_cohorts(path), SETTINGS, 2, "b", lung).empty
    append_cohorts(path, assign(manifest(people(3, "benign")), read_cohorts(path), SETTINGS, 2, "b", lung))
    now = read_cohorts(path)
    assert changed_row(before, now) is None and changed_row(now, blinded(now, {now["cluster"][1]})) is None
    assert set(now["cluster"].str.len()) == {64}
    moved = now.assign(side=now["side"].where(now.index != 2, "nowhere"))
    assert "side was" in str(changed_row(before, moved))
    assert "is now the row of" in str(changed_row(before, now.assign(cluster=now["cluster"][::-1].to_numpy())))


def test_withdrawn_clusters_stay_in_the_table_and_count_for_nothing(lung: Task, nobody: pd.DataFrame) -> None:
    """All of the test side is withdrawn: the next patients go there, as if those had never come."""
    first = marked(assign(manifest(people(40, "normal")), nobody, SETTINGS, 1, "a", lung))
    gone = set(first.loc[first["side"] == "test", "cluster"])
    left = blinded(first, gone)
    assert len(left) == 40 and left["cluster"].str.startswith("withdrawn-").sum() == len(gone) == 12
    never = first[first["side"] != "test"]
    new = manifest(people(12, "normal", prefix="new "))
    dealt = assign(new, left, SETTINGS, 2, "b", lung)
    assert (
        sides(dealt)["test"] == 12
        and dealt["side"].tolist() == assign(new, never, SETTINGS, 2, "b", lung)["side"].tolist()
    )
    assert sides(assign(new, first, SETTINGS, 2, "b", lung))["test"] < 6
    some = manifest(people(5, "normal", prefix="other "))
    assert few(some, blinded(first, set(first["cluster"][:26])))[0].startswith("19 clusters")


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "lung-ct.csv").write_text("cluster,side\nP1,test\n")
    with pytest.raises(Fault, match="restore it from git"):
        read_cohorts(tmp_path / "lung-ct.csv")


def test_under_twenty_clusters_leave_one_out_is_offered(lung: Task, nobody: pd.DataFrame) -> None:
    first = manifest(people(12, "normal"))
    assert few(first, nobody)[0].startswith("12 clusters are fewer than 20")
    known = assign(first, nobody, SETTINGS, 1, "a", lung)
    assert few(manifest(people(7, "malignant") | people(5, "normal")), known) != []
    assert few(manifest(people(8, "malignant")), known) == []


def test_every_site_of_a_class_is_divided_in_the_wanted_shares(lung: Task, nobody: pd.DataFrame) -> None:
    """By class alone a site could lie on one side: the hospitals' own shares must hold too."""
    for seed in range(6):
        clusters = people(20, "normal", "A", "a ") | people(20, "normal", "B", "b ") | people(20, "normal", "C", "c ")
        rows = assign(manifest(clusters), nobody, replace(SETTINGS, seed=seed), 1, "b", lung)
        for site in "abc":
            assert sides(rows, site) == {"training": 10, "test": 6, "validation": 4}, (seed, site)


def test_every_class_is_divided_in_the_wanted_shares_over_small_sites(lung: Task, nobody: pd.DataFrame) -> None:
    """By stratum alone each site of one patient would send that patient to training."""
    clusters = {f"p{number}": (["malignant"], f"site {number}") for number in range(40)}
    rows = assign(manifest(clusters), nobody, SETTINGS, 1, "b", lung)
    assert sides(rows) == {"training": 20, "test": 12, "validation": 8}


def test_later_batches_mend_what_earlier_ones_left_uneven(lung: Task, nobody: pd.DataFrame) -> None:
    """All of the first batch is in training by hand: the next patients of that class and site are not."""
    first = assign(manifest(people(10, "normal")), nobody, SETTINGS, 1, "a", lung).assign(side="training")
    second = assign(manifest(people(10, "normal", prefix="new ")), first, SETTINGS, 2, "b", lung)
    assert sides(second) == {"test": 6, "validation": 4}
    elsewhere = assign(manifest(people(10, "benign", prefix="new ")), first, SETTINGS, 2, "b", lung)
    assert sides(elsewhere) == {"training": 5, "test": 3, "validation": 2}


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, ["training"]), (2, ["test", "training"]), (3, ["test", "training", "validation"])],
)
def test_the_first_clusters_of_a_class_go_to_the_largest_shares(
    lung: Task, nobody: pd.DataFrame, count: int, expected: list[str]
) -> None:
    rows = assign(manifest(people(count, "benign")), nobody, SETTINGS, 1, "b", lung)
    assert sorted(rows["side"]) == expected


def test_a_class_that_another_batch_has_on_every_side_starts_no_new_round(lung: Task, nobody: pd.DataFrame) -> None:
    first = assign(manifest(people(10, "normal", "A")), nobody, SETTINGS, 1, "a", lung)
    second = assign(manifest(people(1, "normal", "A", "new ")), first, SETTINGS, 2, "b", lung)
    assert list(second["side"]) == ["training"]


@pytest.mark.parametrize(
    ("labels", "worst"),
    [(["normal", "malignant"], "malignant"), (["malignant", "benign"], "benign"), (["benign", "normal"], "benign")],
)
def test_a_positive_label_is_the_worst_wherever_the_task_names_it(
    lung: Task, nobody: pd.DataFrame, labels: list[str], worst: str
) -> None:
    rows = assign(manifest({"x": (labels, "A")}), nobody, SETTINGS, 1, "b", replace(lung, positive=("benign",)))
    assert list(rows["stratum"]) == [f"{worst}|A"]


def test_the_site_of_a_cluster_is_its_most_frequent_one(lung: Task, nobody: pd.DataFrame) -> None:
    units = manifest({"x": (["normal"] * 3, "A"), "y": (["normal"] * 2, "A"), "z": (["normal"], "A")})
    units["site"] = ["A", "B", "B", "B", "A", ""]
    rows = assign(units, nobody, SETTINGS, 1, "b", lung).set_index("cluster")
    assert list(rows["stratum"]) == ["normal|B", "normal|A", "normal|"]


def test_the_order_of_the_units_of_a_cluster_moves_nobody(lung: Task, nobody: pd.DataFrame) -> None:
    units = manifest({f"p{number}": (["normal"] * 4, "A") for number in range(30)})
    rows, turned = (assign(table, nobody, SETTINGS, 1, "b", lung) for table in (units, units[::-1]))
    assert rows["side"].tolist() == turned["side"].tolist()


def test_who_comes_first_depends_on_the_seed(lung: Task, nobody: pd.DataFrame) -> None:
    """Of one cluster alone the side is fixed; which of many is tested is chance, by the seed."""
    units = manifest(people(30, "normal"))
    tested = [
        set(rows.loc[rows["side"] == "test", "cluster"])
        for seed in range(8)
        for rows in [assign(units, nobody, replace(SETTINGS, seed=seed), 1, "b", lung)]
    ]
    assert len(set.union(*tested)) > 20 and all(len(one) == 9 for one in tested)


@pytest.mark.parametrize(
    ("test", "validation", "faulty"),
    [(0.5, 0.5, False), (0.5, 0.51, True), (-0.1, 0.5, True), (0.5, -0.1, True), (0.0, 0.0, False), (1.0, 0.0, False)],
)
def test_shares_are_of_one_whole(
    lung: Task, nobody: pd.DataFrame, test: float, validation: float, faulty: bool
) -> None:
    settings, units = SplitSettings(7, test, validation), manifest(people(20, "normal"))
    if faulty:
        with pytest.raises(Fault, match=f"split: test {test} and validation {validation} must be shares"):
            assign(units, nobody, settings, 1, "b", lung)
        return
    counted = sides(assign(units, nobody, settings, 1, "b", lung))
    assert counted["test"] == round(20 * test) and counted["validation"] == round(20 * validation)


@pytest.mark.parametrize("cluster", ["patient", "group"])
def test_a_split_by_patient_or_group_is_taken(lung: Task, nobody: pd.DataFrame, cluster: str) -> None:
    assert len(assign(manifest(people(3, "normal")), nobody, SETTINGS, 1, "b", replace(lung, cluster=cluster))) == 3


def test_an_assignment_says_what_when_and_why(lung: Task, nobody: pd.DataFrame) -> None:
    before = database.now()
    (row,) = assign(manifest(people(1, "benign", "North")), nobody, SETTINGS, 3, "b-3", lung).to_dict("records")
    assert before <= row.pop("assigned_at") <= database.now()
    assert row == {
        "task": "lung-ct",
        "cluster": "benign0",
        "side": "training",
        "epoch": 3,
        "stratum": "benign|North",
        "batch": "b-3",
    }


def test_the_table_that_is_read_is_one_s_own(lung: Task, nobody: pd.DataFrame, tmp_path: Path) -> None:
    """It is read once for as long as the file stays as it is, and again after it has changed."""
    path = tmp_path / "lung-ct.csv"
    append_cohorts(path, assign(manifest(people(4, "normal")), nobody, SETTINGS, 1, "a", lung))
    table = read_cohorts(path)
    table["side"] = "nowhere"
    assert set(read_cohorts(path)["side"]) <= set(Side) and read_cohorts(path)["epoch"].tolist() == [1] * 4
    write_cohorts(path, read_cohorts(path).head(2))
    assert len(read_cohorts(path)) == 2


def test_a_refused_addition_leaves_the_table_as_it_was(lung: Task, nobody: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "lung-ct.csv"
    first = assign(manifest(people(5, "normal")), nobody, SETTINGS, 1, "a", lung)
    append_cohorts(path, first)
    before = path.read_bytes()
    new = assign(manifest(people(2, "benign")), nobody, SETTINGS, 1, "a", lung)
    for rows in (pd.concat([new, first.head(2)]), pd.concat([first.tail(1).assign(side="test"), new])):
        with pytest.raises(Fault, match=r"lung-ct\.csv: \d clusters already have a side \([0-9a-f]{12}\); it never"):
            append_cohorts(path, rows)
        assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["lung-ct.csv"]


def test_nothing_new_adds_nothing(lung: Task, nobody: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "deeper" / "lung-ct.csv"
    append_cohorts(path, assign(manifest(people(5, "normal")), nobody, SETTINGS, 1, "a", lung))
    before = path.read_bytes()
    append_cohorts(path, assign(manifest(people(5, "normal")), read_cohorts(path), SETTINGS, 2, "b", lung))
    assert path.read_bytes() == before
    elsewhere = tmp_path / "other" / "folder" / "lung-ct.csv"
    for _ in range(2):
        write_cohorts(elsewhere, read_cohorts(path))
        assert elsewhere.read_bytes() == before


def test_words_that_stand_for_nothing_elsewhere_are_names_here(
    lung: Task, nobody: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "lung-ct.csv"
    rows = assign(manifest(people(3, "normal", "None")), nobody, SETTINGS, 1, "NA", lung)
    assert list(rows.index) == [0, 1, 2]
    append_cohorts(path, rows)
    pd.testing.assert_frame_equal(read_cohorts(path), marked(rows))


def test_nothing_is_added_to_a_table_with_other_columns(lung: Task, nobody: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "lung-ct.csv"
    append_cohorts(path, assign(manifest(people(3, "normal")), nobody, SETTINGS, 1, "a", lung))
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{head},more", *(f"{line},x" for line in lines)]) + "\n")
    before = path.read_bytes()
    with pytest.raises(Fault, match="the columns are"):
        append_cohorts(path, assign(manifest(people(2, "benign")), nobody, SETTINGS, 2, "b", lung))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "task,cluster,side,epoch,stratum,batch,assigned_at\nt,c,test,first,s,b,now\n",
            "an epoch in it is not a number",
        ),
        ("task,cluster,side,epoch,stratum,batch\nt,c,test,1,s,b\n", "the columns are"),
        ("cluster,task,side,epoch,stratum,batch,assigned_at\nc,t,test,1,s,b,now\n", "the columns are"),
    ],
)
def test_a_table_that_was_edited_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "lung-ct.csv").write_text(text)
    with pytest.raises(Fault, match=rf"lung-ct\.csv: {sentence}.*restore it from git"):
        read_cohorts(tmp_path / "lung-ct.csv")


def test_a_table_without_a_file_is_empty_and_typed(tmp_path: Path) -> None:
    empty = read_cohorts(tmp_path / "none.csv")
    assert tuple(empty.columns) == COHORTS and empty.empty and empty["epoch"].dtype == int


@pytest.mark.parametrize(("count", "warned"), [(19, True), (20, False), (21, False)])
def test_twenty_clusters_are_enough_for_sides(lung: Task, nobody: pd.DataFrame, count: int, warned: bool) -> None:
    warnings = few(manifest(people(count, "normal")), nobody)
    assert [text.split()[0] for text in warnings] == (["19"] if warned else [])
