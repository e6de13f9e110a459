from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from data.person import age, number, shifted, who
from data.record import OPTIONAL_METADATA, REQUIRED_METADATA, Scan, Units
from lineage.fault import Fault


def row(**cells: str) -> dict[str, str]:
    return dict.fromkeys((*REQUIRED_METADATA, *OPTIONAL_METADATA), "") | cells


def scan(slices: int = 1, **header: str) -> Scan:
    return Scan("x", np.zeros((slices, 4, 4), np.float32), Units.HU, None, None, header)


@pytest.mark.usefixtures("home")
def test_a_patient_keeps_one_pseudonym_and_one_shift() -> None:
    first = who(row(patient_id="Doe 1", study_date="2024-03-01"), scan(), "a" * 64)
    later = who(row(patient_id="Doe 1", study_date="2024-03-31"), scan(), "b" * 64)
    assert first["patient"] == later["patient"] == first["cluster"]
    assert "Doe" not in str(first)
    apart = date.fromisoformat(later["study_date"]) - date.fromisoformat(first["study_date"])
    assert apart.days == 30 and first["study_date"] < "2024-03-01"
    assert first["case"] == f"{first['patient']}-{first['study_date']}" != later["case"]


@pytest.mark.usefixtures("home")
def test_without_a_date_a_volume_is_a_case_and_single_pictures_share_one() -> None:
    told = row(patient_id="1")
    volumes = [who(told, scan(24), digest * 64)["case"] for digest in "ab"]
    pictures = [who(told, scan(), digest * 64)["case"] for digest in "ab"]
    assert volumes[0] != volumes[1] and pictures[0] == pictures[1]


@pytest.mark.usefixtures("home")
def test_a_group_is_the_cluster_and_stands_in_for_an_unknown_patient() -> None:
    both = who(row(patient_id="1", group="g"), scan(), "")
    alone = who(row(group="g"), scan(), "")
    assert both["cluster"] == alone["cluster"] != both["patient"]
    assert alone["patient"] not in ("", both["patient"])


@pytest.mark.usefixtures("home")
def test_the_header_fills_in_what_the_table_leaves_open() -> None:
    filled = who(row(patient_id="1", sex="f"), scan(manufacturer="ACME", model="One"), "")
    assert (filled["scanner"], filled["sex"]) == ("ACME One", "F")


@pytest.mark.parametrize(("text", "years"), [("63", 63.0), ("063Y", 63.0), ("94", 90.0), ("008M", 0.0), ("", None)])
def test_ages_are_years_and_the_oldest_are_not_told_apart(text: str, years: float | None) -> None:
    assert age(text) == years


@pytest.mark.parametrize("text", ["old", "-3", "nan", "1e999"])
def test_a_number_that_is_none_is_named(text: str) -> None:
    with pytest.raises(Fault, match="lesion_mm"):
        number(text, "lesion_mm")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("text", ["31.12.2024", "2024-02-30", "0001-01-01"])
def test_a_date_that_is_none_is_named(text: str) -> None:
    with pytest.raises(Fault, match="not a date such as 2026-01-31"):
        shifted(text, "someone")
