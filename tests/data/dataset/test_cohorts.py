from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from data.batch.withdrawn_rows import changed_row, hide_withdrawn_clusters, mark_clusters
from data.core_types import Side, Task
from data.dataset.cohorts import (
    COHORTS,
    append_cohorts,
    assign_cohorts,
    read_cohorts,
    restore_cluster_names,
    small_set_warning,
    write_cohorts,
)
from data.settings import SplitSettings
from lineage.errors import Fault
from lineage.fingerprint import hash_pseudonym, text_sha256
from lineage.record import database

SETTINGS = SplitSettings(seed=7, test=0.3, validation=0.2)


def manifest(clusters: dict[str, tuple[list[str], str]], key: str = "") -> pd.DataFrame:
    """A manifest of clusters: name -> (labels of its units, site). Pixel hashes depend on the name, not on `key`."""
    rows = [
        {"cluster": key + name, "label": label, "site": site, "pixels_blake3": text_sha256(f"{name} {number}")}
        for name, (labels, site) in clusters.items()
        for number, label in enumerate(labels)
    ]
    return pd.DataFrame(rows)


def clusters_of(count: int, label: str, site: str = "A", prefix: str = "") -> dict[str, tuple[list[str], str]]:
    return {f"{prefix}{label}{number}": ([label], site) for number in range(count)}


@pytest.fixture
def no_cohorts(tmp_path: Path) -> pd.DataFrame:
    return read_cohorts(tmp_path / "none.csv")


def side_counts_of(rows: pd.DataFrame, start: str = "") -> Counter[str]:
    return Counter(rows.loc[rows["cluster"].str.startswith(start), "side"])


def test_each_class_is_split_by_the_shares(lung: Task, no_cohorts: pd.DataFrame) -> None:
    table = manifest(clusters_of(50, "normal") | clusters_of(20, "benign") | clusters_of(30, "malignant"))
    rows = assign_cohorts(table, no_cohorts, SETTINGS, 1, "first", lung)
    assert tuple(rows.columns) == COHORTS
    assert side_counts_of(rows, "normal") == {"training": 25, "test": 15, "validation": 10}
    assert side_counts_of(rows, "benign") == {"training": 10, "test": 6, "validation": 4}
    assert set(rows["batch"]) == {"first"} and set(rows["epoch"]) == {1} and set(rows["task"]) == {"lung-ct"}


def test_sides_do_not_depend_on_row_order_and_pseudonym_key(lung: Task, no_cohorts: pd.DataFrame) -> None:
    clusters = clusters_of(20, "normal") | clusters_of(9, "malignant")
    first = assign_cohorts(manifest(clusters), no_cohorts, SETTINGS, 1, "b", lung)
    shuffled = manifest(clusters).sample(frac=1, random_state=3)
    assert assign_cohorts(shuffled, no_cohorts, SETTINGS, 1, "b", lung)["side"].tolist() == first["side"].tolist()
    other_key = assign_cohorts(manifest(clusters, key="K"), no_cohorts, SETTINGS, 1, "b", lung)
    assert other_key["cluster"].str[1:].tolist() == first["cluster"].tolist()
    assert other_key["side"].tolist() == first["side"].tolist()
    other_seed = assign_cohorts(manifest(clusters), no_cohorts, replace(SETTINGS, seed=8), 1, "b", lung)
    assert other_seed["side"].tolist() != first["side"].tolist()


def test_sides_depend_on_pixels_and_not_on_file_bytes_or_shared_blank_slices(
    lung: Task, no_cohorts: pd.DataFrame
) -> None:
    """The same pixels in different file bytes give the same sides, also if patients share a blank slice."""
    table = manifest(clusters_of(20, "normal") | clusters_of(9, "malignant"))
    assignments = [
        assign_cohorts(
            table.assign(sha256=[f"{compressor} {row}" for row in range(29)]), no_cohorts, SETTINGS, 1, "b", lung
        )
        for compressor in ("zlib", "zlib-ng")
    ]
    assert assignments[0]["side"].tolist() == assignments[1]["side"].tolist()
    blank = table.assign(pixels_blake3="0" * 64)
    with_blank = pd.concat([table, blank], ignore_index=True)
    other_key = with_blank.assign(cluster=with_blank["cluster"].map(lambda name: text_sha256(name)[:8]))
    name_by_pseudonym = {text_sha256(name)[:8]: name for name in table["cluster"]}
    original, renamed = (assign_cohorts(units, no_cohorts, SETTINGS, 1, "b", lung) for units in (with_blank, other_key))
    assert dict(zip(renamed["cluster"].map(name_by_pseudonym), renamed["side"], strict=True)) == dict(
        zip(original["cluster"], original["side"], strict=True)
    )


def test_three_clusters_of_a_class_are_enough_to_train_validate_and_test_it(
    lung: Task, no_cohorts: pd.DataFrame
) -> None:
    for settings in (SETTINGS, SplitSettings(seed=7, test=0.1, validation=0.1)):
        rows = assign_cohorts(
            manifest(clusters_of(30, "normal") | clusters_of(3, "benign")), no_cohorts, settings, 1, "b", lung
        )
        assert side_counts_of(rows, "benign") == {"training": 1, "test": 1, "validation": 1}


def test_many_sites_with_one_patient_each_reach_every_side(lung: Task, no_cohorts: pd.DataFrame) -> None:
    clusters = {f"m{site}": (["malignant"], f"site {site}") for site in range(20)}
    side_counts = side_counts_of(assign_cohorts(manifest(clusters), no_cohorts, SETTINGS, 1, "b", lung))
    assert min(side_counts[side] for side in Side) >= 3 and side_counts["training"] >= 8


def test_a_new_site_is_tested_too(lung: Task, no_cohorts: pd.DataFrame) -> None:
    first = assign_cohorts(manifest(clusters_of(40, "normal", "A")), no_cohorts, SETTINGS, 1, "a", lung)
    second = assign_cohorts(manifest(clusters_of(10, "normal", "B", "b")), first, SETTINGS, 2, "b", lung)
    assert side_counts_of(second)["test"] == 3 and side_counts_of(second)["validation"] >= 1


def test_a_cluster_that_has_a_side_is_never_assigned_again(lung: Task, no_cohorts: pd.DataFrame) -> None:
    clusters = clusters_of(12, "normal")
    first = assign_cohorts(manifest(clusters), no_cohorts, SETTINGS, 1, "a", lung)
    assert assign_cohorts(manifest(clusters), first, SETTINGS, 2, "b", lung).empty
    second = assign_cohorts(manifest(clusters | clusters_of(3, "malignant")), first, SETTINGS, 2, "b", lung)
    assert list(second["cluster"]) == ["malignant0", "malignant1", "malignant2"]
    assert set(second["epoch"]) == {2}


def test_the_worst_label_of_a_cluster_decides_its_stratum(lung: Task, no_cohorts: pd.DataFrame) -> None:
    table = manifest({"x": (["normal", "malignant", "benign"], "A"), "y": (["normal", "benign"], "A")})
    rows = assign_cohorts(table, no_cohorts, SETTINGS, 1, "b", lung).set_index("cluster")
    assert list(rows["stratum"]) == ["malignant|A", "benign|A"]


def test_a_side_without_a_share_stays_empty(lung: Task, no_cohorts: pd.DataFrame) -> None:
    rows = assign_cohorts(manifest(clusters_of(20, "normal")), no_cohorts, SplitSettings(7, 0.0, 0.2), 1, "b", lung)
    assert "test" not in set(rows["side"])
    with pytest.raises(Fault, match="must be shares"):
        assign_cohorts(manifest(clusters_of(20, "normal")), no_cohorts, SplitSettings(7, 0.7, 0.5), 1, "b", lung)


def test_a_split_by_image_is_refused(lung: Task, no_cohorts: pd.DataFrame) -> None:
    with pytest.raises(Fault, match="`cluster: image` would put pictures of one patient on both sides"):
        assign_cohorts(manifest(clusters_of(3, "normal")), no_cohorts, SETTINGS, 1, "b", replace(lung, cluster="image"))


def test_the_table_on_disk_is_append_only(lung: Task, no_cohorts: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "cohorts" / "lung-ct.csv"
    first = assign_cohorts(manifest(clusters_of(5, "normal")), no_cohorts, SETTINGS, 1, "a", lung)
    append_cohorts(path, first)
    before = path.read_text()
    path.write_text(
        before.removesuffix("\n")
    )  # as an editor can leave it: a new row must not be appended to the last line
    second = assign_cohorts(manifest(clusters_of(5, "benign")), read_cohorts(path), SETTINGS, 2, "b", lung)
    append_cohorts(path, second)
    assert path.read_text().startswith(before)
    pd.testing.assert_frame_equal(read_cohorts(path), mark_clusters(pd.concat([first, second], ignore_index=True)))
    assert not [name for name in (*first["cluster"], *second["cluster"]) if f",{name}," in path.read_text()]
    assert assign_cohorts(manifest(clusters_of(5, "normal")), read_cohorts(path), SETTINGS, 3, "c", lung).empty
    with pytest.raises(Fault, match="already have a side"):
        append_cohorts(path, first.head(1))
    assert [entry.name for entry in path.parent.iterdir()] == ["lung-ct.csv"]


def test_cluster_names_are_restored_from_the_manifests(lung: Task, no_cohorts: pd.DataFrame, tmp_path: Path) -> None:
    table = manifest(clusters_of(6, "normal"))
    path, batch = tmp_path / "lung-ct.csv", tmp_path / "first"
    batch.mkdir()
    table.iloc[:4].to_csv(batch / "manifest.csv", index=False)
    first = assign_cohorts(table, no_cohorts, SETTINGS, 1, "first", lung)
    append_cohorts(path, first)
    clusters = restore_cluster_names(read_cohorts(path), [batch])["cluster"].tolist()
    assert clusters == [
        name if name in set(table["cluster"][:4]) else hash_pseudonym(name) for name in first["cluster"]
    ]


def test_an_old_table_with_names_is_continued_with_marks(lung: Task, no_cohorts: pd.DataFrame, tmp_path: Path) -> None:
    """Its first rows name clusters; a changed side is still detected."""
    path = tmp_path / "lung-ct.csv"
    before = assign_cohorts(manifest(clusters_of(5, "normal")), no_cohorts, SETTINGS, 1, "a", lung)
    before.to_csv(path, index=False)
    assert assign_cohorts(manifest(clusters_of(5, "normal")), read_cohorts(path), SETTINGS, 2, "b", lung).empty
    append_cohorts(path, assign_cohorts(manifest(clusters_of(3, "benign")), read_cohorts(path), SETTINGS, 2, "b", lung))
    after = read_cohorts(path)
    assert (
        changed_row(before, after) is None
        and changed_row(after, hide_withdrawn_clusters(after, {after["cluster"][1]})) is None
    )
    assert set(after["cluster"].str.len()) == {64}
    changed = after.assign(side=after["side"].where(after.index != 2, "nowhere"))
    assert "side was" in str(changed_row(before, changed))
    assert "is now the row of" in str(changed_row(before, after.assign(cluster=after["cluster"][::-1].to_numpy())))


def test_withdrawn_clusters_stay_in_the_table_and_do_not_count(lung: Task, no_cohorts: pd.DataFrame) -> None:
    """The whole test side is withdrawn: new patients are assigned as if it had never existed."""
    first = mark_clusters(assign_cohorts(manifest(clusters_of(40, "normal")), no_cohorts, SETTINGS, 1, "a", lung))
    withdrawn = set(first.loc[first["side"] == "test", "cluster"])
    cohorts = hide_withdrawn_clusters(first, withdrawn)
    assert len(cohorts) == 40 and cohorts["cluster"].str.startswith("withdrawn-").sum() == len(withdrawn) == 12
    remaining = first[first["side"] != "test"]
    new = manifest(clusters_of(12, "normal", prefix="new "))
    rows = assign_cohorts(new, cohorts, SETTINGS, 2, "b", lung)
    assert (
        side_counts_of(rows)["test"] == 12
        and rows["side"].tolist() == assign_cohorts(new, remaining, SETTINGS, 2, "b", lung)["side"].tolist()
    )
    assert side_counts_of(assign_cohorts(new, first, SETTINGS, 2, "b", lung))["test"] < 6
    later = manifest(clusters_of(5, "normal", prefix="other "))
    assert small_set_warning(later, hide_withdrawn_clusters(first, set(first["cluster"][:26])))[0].startswith(
        "19 clusters"
    )


def test_a_damaged_table_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "lung-ct.csv").write_text("cluster,side\nP1,test\n")
    with pytest.raises(Fault, match="restore it from git"):
        read_cohorts(tmp_path / "lung-ct.csv")


def test_fewer_than_twenty_clusters_give_a_warning(lung: Task, no_cohorts: pd.DataFrame) -> None:
    first = manifest(clusters_of(12, "normal"))
    assert small_set_warning(first, no_cohorts)[0].startswith("12 clusters are fewer than 20")
    cohorts = assign_cohorts(first, no_cohorts, SETTINGS, 1, "a", lung)
    assert small_set_warning(manifest(clusters_of(7, "malignant") | clusters_of(5, "normal")), cohorts) != []
    assert small_set_warning(manifest(clusters_of(8, "malignant")), cohorts) == []


def test_every_site_of_a_class_is_split_by_the_shares(lung: Task, no_cohorts: pd.DataFrame) -> None:
    """Balanced by class only, a site could be on one side: the shares must hold within each site too."""
    for seed in range(6):
        clusters = (
            clusters_of(20, "normal", "A", "a ")
            | clusters_of(20, "normal", "B", "b ")
            | clusters_of(20, "normal", "C", "c ")
        )
        rows = assign_cohorts(manifest(clusters), no_cohorts, replace(SETTINGS, seed=seed), 1, "b", lung)
        for site in "abc":
            assert side_counts_of(rows, site) == {"training": 10, "test": 6, "validation": 4}, (seed, site)


def test_every_class_is_split_by_the_shares_over_small_sites(lung: Task, no_cohorts: pd.DataFrame) -> None:
    """Balanced by stratum only, the patient of each one-patient site would go to training."""
    clusters = {f"p{number}": (["malignant"], f"site {number}") for number in range(40)}
    rows = assign_cohorts(manifest(clusters), no_cohorts, SETTINGS, 1, "b", lung)
    assert side_counts_of(rows) == {"training": 20, "test": 12, "validation": 8}


def test_later_batches_correct_the_imbalance_of_earlier_ones(lung: Task, no_cohorts: pd.DataFrame) -> None:
    """The whole first batch is in training by hand: the next patients of its class and site go to other sides."""
    first = assign_cohorts(manifest(clusters_of(10, "normal")), no_cohorts, SETTINGS, 1, "a", lung).assign(
        side="training"
    )
    second = assign_cohorts(manifest(clusters_of(10, "normal", prefix="new ")), first, SETTINGS, 2, "b", lung)
    assert side_counts_of(second) == {"test": 6, "validation": 4}
    other_class = assign_cohorts(manifest(clusters_of(10, "benign", prefix="new ")), first, SETTINGS, 2, "b", lung)
    assert side_counts_of(other_class) == {"training": 5, "test": 3, "validation": 2}


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, ["training"]), (2, ["test", "training"]), (3, ["test", "training", "validation"])],
)
def test_the_first_clusters_of_a_class_go_to_the_largest_shares(
    lung: Task, no_cohorts: pd.DataFrame, count: int, expected: list[str]
) -> None:
    rows = assign_cohorts(manifest(clusters_of(count, "benign")), no_cohorts, SETTINGS, 1, "b", lung)
    assert sorted(rows["side"]) == expected


def test_a_class_that_is_on_every_side_is_balanced_by_the_shares(lung: Task, no_cohorts: pd.DataFrame) -> None:
    first = assign_cohorts(manifest(clusters_of(10, "normal", "A")), no_cohorts, SETTINGS, 1, "a", lung)
    second = assign_cohorts(manifest(clusters_of(1, "normal", "A", "new ")), first, SETTINGS, 2, "b", lung)
    assert list(second["side"]) == ["training"]


@pytest.mark.parametrize(
    ("labels", "worst"),
    [(["normal", "malignant"], "malignant"), (["malignant", "benign"], "benign"), (["benign", "normal"], "benign")],
)
def test_a_positive_label_is_the_worst_at_any_position(
    lung: Task, no_cohorts: pd.DataFrame, labels: list[str], worst: str
) -> None:
    rows = assign_cohorts(
        manifest({"x": (labels, "A")}), no_cohorts, SETTINGS, 1, "b", replace(lung, positive=("benign",))
    )
    assert list(rows["stratum"]) == [f"{worst}|A"]


def test_the_site_of_a_cluster_is_its_most_frequent_one(lung: Task, no_cohorts: pd.DataFrame) -> None:
    units = manifest({"x": (["normal"] * 3, "A"), "y": (["normal"] * 2, "A"), "z": (["normal"], "A")})
    units["site"] = ["A", "B", "B", "B", "A", ""]
    rows = assign_cohorts(units, no_cohorts, SETTINGS, 1, "b", lung).set_index("cluster")
    assert list(rows["stratum"]) == ["normal|B", "normal|A", "normal|"]


def test_sides_do_not_depend_on_the_order_of_units(lung: Task, no_cohorts: pd.DataFrame) -> None:
    units = manifest({f"p{number}": (["normal"] * 4, "A") for number in range(30)})
    rows, reversed_rows = (assign_cohorts(table, no_cohorts, SETTINGS, 1, "b", lung) for table in (units, units[::-1]))
    assert rows["side"].tolist() == reversed_rows["side"].tolist()


def test_the_order_of_clusters_depends_on_the_seed(lung: Task, no_cohorts: pd.DataFrame) -> None:
    """The side of a single cluster is fixed; which of many clusters are tested depends on the seed."""
    units = manifest(clusters_of(30, "normal"))
    tested = [
        set(rows.loc[rows["side"] == "test", "cluster"])
        for seed in range(8)
        for rows in [assign_cohorts(units, no_cohorts, replace(SETTINGS, seed=seed), 1, "b", lung)]
    ]
    assert len(set.union(*tested)) > 20 and all(len(clusters) == 9 for clusters in tested)


@pytest.mark.parametrize(
    ("test", "validation", "is_faulty"),
    [(0.5, 0.5, False), (0.5, 0.51, True), (-0.1, 0.5, True), (0.5, -0.1, True), (0.0, 0.0, False), (1.0, 0.0, False)],
)
def test_shares_must_be_valid(
    lung: Task, no_cohorts: pd.DataFrame, test: float, validation: float, is_faulty: bool
) -> None:
    settings, units = SplitSettings(7, test, validation), manifest(clusters_of(20, "normal"))
    if is_faulty:
        with pytest.raises(Fault, match=f"split: test {test} and validation {validation} must be shares"):
            assign_cohorts(units, no_cohorts, settings, 1, "b", lung)
        return
    side_counts = side_counts_of(assign_cohorts(units, no_cohorts, settings, 1, "b", lung))
    assert side_counts["test"] == round(20 * test) and side_counts["validation"] == round(20 * validation)


@pytest.mark.parametrize("cluster", ["patient", "group"])
def test_a_split_by_patient_or_group_is_accepted(lung: Task, no_cohorts: pd.DataFrame, cluster: str) -> None:
    assert (
        len(
            assign_cohorts(
                manifest(clusters_of(3, "normal")), no_cohorts, SETTINGS, 1, "b", replace(lung, cluster=cluster)
            )
        )
        == 3
    )


def test_an_assignment_has_side_stratum_batch_and_time(lung: Task, no_cohorts: pd.DataFrame) -> None:
    before = database.now()
    (row,) = assign_cohorts(manifest(clusters_of(1, "benign", "North")), no_cohorts, SETTINGS, 3, "b-3", lung).to_dict(
        "records"
    )
    assert before <= row.pop("assigned_at") <= database.now()
    assert row == {
        "task": "lung-ct",
        "cluster": "benign0",
        "side": "training",
        "epoch": 3,
        "stratum": "benign|North",
        "batch": "b-3",
    }


def test_a_change_of_a_read_table_does_not_affect_later_reads(
    lung: Task, no_cohorts: pd.DataFrame, tmp_path: Path
) -> None:
    """The table is cached until the file changes."""
    path = tmp_path / "lung-ct.csv"
    append_cohorts(path, assign_cohorts(manifest(clusters_of(4, "normal")), no_cohorts, SETTINGS, 1, "a", lung))
    table = read_cohorts(path)
    table["side"] = "nowhere"
    assert set(read_cohorts(path)["side"]) <= set(Side) and read_cohorts(path)["epoch"].tolist() == [1] * 4
    write_cohorts(path, read_cohorts(path).head(2))
    assert len(read_cohorts(path)) == 2


def test_a_refused_append_does_not_change_the_table(lung: Task, no_cohorts: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "lung-ct.csv"
    first = assign_cohorts(manifest(clusters_of(5, "normal")), no_cohorts, SETTINGS, 1, "a", lung)
    append_cohorts(path, first)
    before = path.read_bytes()
    new = assign_cohorts(manifest(clusters_of(2, "benign")), no_cohorts, SETTINGS, 1, "a", lung)
    for rows in (pd.concat([new, first.head(2)]), pd.concat([first.tail(1).assign(side="test"), new])):
        with pytest.raises(Fault, match=r"lung-ct\.csv: \d clusters already have a side \([0-9a-f]{12}\); it never"):
            append_cohorts(path, rows)
        assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["lung-ct.csv"]


def test_appending_no_rows_does_not_change_the_table(lung: Task, no_cohorts: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "deeper" / "lung-ct.csv"
    append_cohorts(path, assign_cohorts(manifest(clusters_of(5, "normal")), no_cohorts, SETTINGS, 1, "a", lung))
    before = path.read_bytes()
    append_cohorts(path, assign_cohorts(manifest(clusters_of(5, "normal")), read_cohorts(path), SETTINGS, 2, "b", lung))
    assert path.read_bytes() == before
    other_path = tmp_path / "other" / "folder" / "lung-ct.csv"
    for _ in range(2):
        write_cohorts(other_path, read_cohorts(path))
        assert other_path.read_bytes() == before


def test_na_and_none_are_read_as_names(lung: Task, no_cohorts: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "lung-ct.csv"
    rows = assign_cohorts(manifest(clusters_of(3, "normal", "None")), no_cohorts, SETTINGS, 1, "NA", lung)
    assert list(rows.index) == [0, 1, 2]
    append_cohorts(path, rows)
    pd.testing.assert_frame_equal(read_cohorts(path), mark_clusters(rows))


def test_a_table_with_other_columns_is_not_extended(lung: Task, no_cohorts: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "lung-ct.csv"
    append_cohorts(path, assign_cohorts(manifest(clusters_of(3, "normal")), no_cohorts, SETTINGS, 1, "a", lung))
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{head},more", *(f"{line},x" for line in lines)]) + "\n")
    before = path.read_bytes()
    with pytest.raises(Fault, match="the columns are"):
        append_cohorts(path, assign_cohorts(manifest(clusters_of(2, "benign")), no_cohorts, SETTINGS, 2, "b", lung))
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
def test_an_edited_table_is_refused_by_name(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "lung-ct.csv").write_text(text)
    with pytest.raises(Fault, match=rf"lung-ct\.csv: {sentence}.*restore it from git"):
        read_cohorts(tmp_path / "lung-ct.csv")


def test_a_table_without_a_file_is_empty_and_typed(tmp_path: Path) -> None:
    empty = read_cohorts(tmp_path / "none.csv")
    assert tuple(empty.columns) == COHORTS and empty.empty and empty["epoch"].dtype == int


@pytest.mark.parametrize(("count", "is_warned"), [(19, True), (20, False), (21, False)])
def test_twenty_clusters_give_no_warning(lung: Task, no_cohorts: pd.DataFrame, count: int, is_warned: bool) -> None:
    warnings = small_set_warning(manifest(clusters_of(count, "normal")), no_cohorts)
    assert [text.split()[0] for text in warnings] == (["19"] if is_warned else [])
