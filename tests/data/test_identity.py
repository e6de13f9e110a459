from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from data import identity
from lineage.fault import Fault


def header(**attributes: str) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def test_long_parts_betray_anywhere_short_names_as_words_and_initials_never() -> None:
    secrets = identity.of_patient(header(PatientName="Müller-Lüd^Ng^J", PatientID="MRN-00417"))
    for text in ("for MULLER-lud", "xmüller-lüdx", "mrn00417", "Ng special", "by NG"):
        assert identity.betrays(text, secrets), text
    for text in ("Siemens", "imaging", "J. kernel", "SENSING"):
        assert not identity.betrays(text, secrets), text
    assert not identity.betrays("NG", secrets, words=False)  # a code: its terms are as short


def test_every_writing_of_a_birth_date_betrays() -> None:
    secrets = identity.of_patient(header(PatientBirthDate="19630717"))
    for text in ("1963-07-17", "17.07.1963", "born 07/17/1963", "19630717"):
        assert identity.betrays(text, secrets), text
    assert not identity.betrays("1963", secrets)


def test_words_that_file_names_share_with_honest_headers_are_no_names() -> None:
    secrets = identity.of_names(["Chest_CT/Quillfeather_axial_0001.dcm", "SIEMENS.zip"])
    assert identity.betrays("for Quillfeather", secrets)
    for text in ("CHEST", "AXIAL", "SIEMENS", "GE MEDICAL SYSTEMS"):
        assert not identity.betrays(text, secrets), text
    hospital = identity.of_hospital(header(InstitutionName="General Hospital Wolkenstein"))
    assert identity.betrays("Wolkenstein", hospital) and not identity.betrays("General Electric", hospital)


def test_cells_that_repeat_the_patient_are_refused_without_a_quotation() -> None:
    secrets = identity.of_row({"patient_id": "Quillfeather, Zelda"}) | identity.of_patient(header(PatientName="Nort^A"))
    identity.check_cells("row 2", identity.cells([{"site": "Northgate", "labeller": "ann"}]), secrets)
    for site in ("ward of Zelda", "QUILLFEATHERS", "nort"):
        with pytest.raises(Fault, match="row 2: the column site of its row repeats") as caught:
            identity.check_cells("row 2", identity.cells([{"site": site}]), secrets)
        assert site not in str(caught.value)


def test_a_foreign_message_loses_what_it_quotes() -> None:
    content = b"\0\0Quillfeather^Zelda\0 1963"
    told = identity.unquoted("could not convert 'Quillfeather^Zelda' of 1963 (é) to float", content)
    assert told == "could not convert '…^…' of … (…) to float"


def test_a_foreign_message_loses_control_characters() -> None:
    """A header must not clear the screen or write a second line into a log."""
    assert identity.unquoted("syntax '1.2\x00.\x1b[2J\n.8' is unknown", b"") == "syntax '1.2….…[2J….8' is unknown"


def test_facts_of_a_scan_are_silent_where_they_betray() -> None:
    facts = {"manufacturer": "ACME for Zelda", "model": "Scan 7", "kernel": "quillfeather_b", "modality": "CT"}
    told = identity.silent(facts, header(PatientName="Doe^Zelda"), {"patient_id": "1"}, ["Quillfeather.dcm"])
    assert told == {"manufacturer": "", "model": "Scan 7", "kernel": "", "modality": "CT"}
    assert identity.silent(facts, None, {"patient_id": "1"}, []) == facts
