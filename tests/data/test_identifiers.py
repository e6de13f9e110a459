from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset

from data import identifiers
from lineage.errors import Fault


def header(**attributes: str) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def test_long_parts_identify_anywhere_short_names_as_words_and_initials_never() -> None:
    secrets = identifiers.find_people(header(PatientName="Müller-Lüd^Ng^J", PatientID="MRN-00417")).patient
    for text in ("for MULLER-lud", "xmüller-lüdx", "mrn00417", "Ng special", "by NG"):
        assert identifiers.contains_secret(text, secrets), text
    for text in ("Siemens", "imaging", "J. kernel", "SENSING"):
        assert not identifiers.contains_secret(text, secrets), text
    assert not identifiers.contains_secret("NG", secrets, words=False)  # a code, whose terms are as short


def test_a_long_number_identifies_if_it_contains_a_number_of_the_patient() -> None:
    secrets = identifiers.find_people(header(PatientID="471100471", PatientName="Quillfeather^Ann")).patient
    assert identifiers.contains_patient_number("471100471", secrets) and identifiers.contains_patient_number(
        "9471100471", secrets
    )
    assert not identifiers.contains_patient_number("4711", secrets) and not identifiers.contains_patient_number(
        "88888888", secrets
    )
    assert not identifiers.contains_patient_number("12347", identifiers.find_people(header(PatientID="1234")).patient)


def test_every_format_of_a_birth_date_identifies() -> None:
    secrets = identifiers.find_people(header(PatientBirthDate="19630717")).patient
    for text in ("1963-07-17", "17.07.1963", "born 07/17/1963", "19630717"):
        assert identifiers.contains_secret(text, secrets), text
    assert not identifiers.contains_secret("1963", secrets)


def test_common_words_of_file_names_are_no_names() -> None:
    secrets = identifiers.secrets_of_names(["Chest_CT/Quillfeather_axial_0001.dcm", "SIEMENS.zip"])
    assert identifiers.contains_secret("for Quillfeather", secrets)
    for text in ("CHEST", "AXIAL", "SIEMENS", "GE MEDICAL SYSTEMS"):
        assert not identifiers.contains_secret(text, secrets), text
    hospital = identifiers.find_people(header(InstitutionName="General Hospital Wolkenstein")).hospital
    assert identifiers.contains_secret("Wolkenstein", hospital) and not identifiers.contains_secret(
        "General Electric", hospital
    )


def test_cells_that_repeat_the_patient_are_refused_without_quoting_them() -> None:
    secrets = (
        identifiers.secrets_of_row({"patient_id": "Quillfeather, Zelda"})
        | identifiers.find_people(header(PatientName="Nort^A")).patient
    )
    identifiers.check_cells("row 2", identifiers.free_text_cells([{"site": "Northgate", "labeller": "ann"}]), secrets)
    for site in ("ward of Zelda", "QUILLFEATHERS", "nort"):
        with pytest.raises(Fault, match="row 2: the column site of its row repeats") as caught:
            identifiers.check_cells("row 2", identifiers.free_text_cells([{"site": site}]), secrets)
        assert site not in str(caught.value)


def test_words_quoted_from_the_file_are_removed_from_a_library_message() -> None:
    content = b"\0\0Quillfeather^Zelda\0 1963"
    message = identifiers.remove_quoted_words("could not convert 'Quillfeather^Zelda' of 1963 (é) to float", content)
    assert message == "could not convert '…^…' of … (…) to float"


def test_control_characters_are_removed_from_a_library_message() -> None:
    """A header must not clear the screen or write a second line into a log."""
    assert (
        identifiers.remove_quoted_words("syntax '1.2\x00.\x1b[2J\n.8' is unknown", b"")
        == "syntax '1.2….…[2J….8' is unknown"
    )


def test_facts_that_identify_a_person_are_emptied() -> None:
    facts = {"manufacturer": "ACME for Zelda", "model": "Scan 7", "kernel": "quillfeather_b", "modality": "CT"}
    redacted = identifiers.redact_facts(
        facts, identifiers.find_people(header(PatientName="Doe^Zelda")), {"patient_id": "1"}, ["Quillfeather.dcm"]
    )
    assert redacted == {"manufacturer": "", "model": "Scan 7", "kernel": "", "modality": "CT"}
    assert identifiers.redact_facts(facts, identifiers.People(), {"patient_id": "1"}, []) == facts


def identifying(secrets: identifiers.Secrets, *texts: str, words: bool = True) -> list[str]:
    return [text for text in texts if identifiers.contains_secret(text, secrets, words)]


@pytest.mark.parametrize(
    ("keyword", "source"),
    [
        *(
            (keyword, "patient")
            for keyword in (
                "PatientName",
                "PatientID",
                "OtherPatientIDs",
                "OtherPatientNames",
                "PatientBirthName",
                "PatientMotherBirthName",
                "AccessionNumber",
                "PatientTelephoneNumbers",
                "ResponsiblePerson",
            )
        ),
        *(
            (keyword, "hospital")
            for keyword in (
                "ReferringPhysicianName",
                "OperatorsName",
                "PerformingPhysicianName",
                "PhysiciansOfRecord",
                "NameOfPhysiciansReadingStudy",
                "RequestingPhysician",
                "InstitutionName",
                "InstitutionAddress",
                "InstitutionalDepartmentName",
                "StationName",
                "PatientAddress",
            )
        ),
    ],
)
def test_every_attribute_that_names_a_person_is_a_secret(keyword: str, source: str) -> None:
    secrets = getattr(identifiers.find_people(header(**{keyword: "Quillfeather"})), source)
    assert identifying(secrets, "for QUILLFEATHER", "xquillfeatherx", "honest") == [
        "for QUILLFEATHER",
        "xquillfeatherx",
    ]


@pytest.mark.parametrize("keyword", ["OtherPatientIDs", "OtherPatientNames", "PhysiciansOfRecord"])
def test_each_of_several_values_is_a_secret(keyword: str) -> None:
    several = header(**{keyword: ["Quillfeather", "Northgate"]})
    secrets = identifiers.find_people(several).patient | identifiers.find_people(several).hospital
    assert identifying(secrets, "quillfeather", "northgate") == ["quillfeather", "northgate"]


@pytest.mark.parametrize(
    ("part", "texts"),
    [
        ("Roya", ["roya", "by ROYA.", "xroyax"]),  # four letters identify anywhere
        ("Roy", ["roy", "by Roy."]),  # three or two only as a word
        ("Ng", ["ng", "(NG)"]),
        ("J", []),  # an initial never does
        ("4711", ["4711", "x4711x"]),
        ("471", []),  # a short number is no name
    ],
)
def test_a_part_of_a_name_identifies_depending_on_its_length(part: str, texts: list[str]) -> None:
    secrets = identifiers.find_people(header(PatientName=f"Quillfeather^{part}")).patient
    assert identifying(secrets, *texts) == texts
    for text in (f"x{part[:3]}x", f"{part[:1]}.", "1234"):
        assert not identifiers.contains_secret(text, secrets), text


@pytest.mark.parametrize("separator", [" ", "^", "=", ",", ";", "_", "\\", "\t"])
def test_single_parts_of_a_name_identify(separator: str) -> None:
    secrets = identifiers.secrets_of_row({"patient_id": f"Quillfeather{separator}Zelda"})
    assert identifying(secrets, "zelda", "quillfeather") == ["zelda", "quillfeather"]


def test_a_number_identifies_with_and_without_its_hyphens() -> None:
    secrets = identifiers.secrets_of_row({"patient_id": "MRN-12/34"})
    texts = ["MRN-12/34", "mrn1234", "MRN 12 34", "x.MRN.12.34"]
    assert identifying(secrets, *texts, "MRN-12") == texts
    assert (
        identifiers.secrets_of_row({"group": "MRN-12/34"}) == secrets
        and identifiers.secrets_of_row({}) == identifiers.Secrets()
    )


def test_patient_and_group_are_both_secrets() -> None:
    secrets = identifiers.secrets_of_row({"patient_id": "Quillfeather", "group": "Northgate", "site": "Wolkenstein"})
    assert identifying(secrets, "quillfeather", "northgate", "wolkenstein") == ["quillfeather", "northgate"]


def test_secrets_of_two_sources_are_all_secrets() -> None:
    secrets = identifiers.secrets_of_row({"patient_id": "Quillfeather Ng"}) | identifiers.secrets_of_row(
        {"patient_id": "Northgate Roy"}
    )
    assert identifying(secrets, "quillfeather", "ng", "northgate", "roy") == ["quillfeather", "ng", "northgate", "roy"]


@pytest.mark.parametrize("birth_date", ["19630717", "1963-07-17", "1963.07.17", "19630717101112"])
def test_a_birth_date_identifies_in_every_format_of_the_header(birth_date: str) -> None:
    dataset = header()
    dataset.add_new("PatientBirthDate", "LO", birth_date)
    texts = ["19630717", "17071963", "07171963", "1963/07/17", "17-07-1963"]
    assert identifying(identifiers.find_people(dataset).patient, *texts, "1963", "0717", "19630718") == texts


def test_the_secrets_of_a_header_are_exactly_its_parts() -> None:
    secrets = identifiers.find_people(
        header(
            PatientName="Quillfeather^Zoe^J",
            PatientID="MRN-417",
            PatientBirthDate="19630717",
            OtherPatientIDs=["Northgate", "4711"],
        )
    ).patient
    dates = {"19630717", "17071963", "07171963"}
    assert secrets.long == {"quillfeather", "mrn-417", "mrn417", "northgate", "4711"} | dates
    assert secrets.short == {"zoe"}
    assert identifiers.find_people(header(PatientName="Roya")).patient == identifiers.Secrets(frozenset({"roya"}))
    assert (
        identifiers.find_people(header()).patient == identifiers.find_people(header()).hospital == identifiers.Secrets()
    )


@pytest.mark.parametrize("birth_date", ["", "1963", "196307", "unknown"])
def test_an_incomplete_birth_date_is_no_secret(birth_date: str) -> None:
    dataset = header()
    dataset.add_new("PatientBirthDate", "LO", birth_date)
    assert identifiers.find_people(dataset).patient == identifiers.Secrets()


@pytest.mark.parametrize(
    "secrets_of",
    [lambda word: identifiers.secrets_of_row({"patient_id": word}), lambda word: identifiers.secrets_of_names([word])],
)
@pytest.mark.parametrize("word", ["CT", "chest", "Siemens", "PHANTOM", "Pelvis", "MR"])
def test_words_of_the_field_are_no_names(secrets_of: Any, word: str) -> None:
    assert secrets_of(word) == identifiers.Secrets()


def test_short_words_of_file_names_are_no_secrets() -> None:
    secrets = identifiers.secrets_of_names(["roy/Ng_cts.dcm", "Roya-1234.zip"])
    assert secrets == identifiers.Secrets(frozenset({"roya", "1234"}))


def test_a_code_may_be_as_short_as_a_name_but_must_not_contain_a_long_part() -> None:
    secrets = identifiers.find_people(header(PatientName="Quillfeather^Roy")).patient
    assert identifying(secrets, "ROY", "QUILLFEATHER", words=False) == ["QUILLFEATHER"]


@pytest.mark.parametrize("fact", ["body_part", "manufacturer", "model", "kernel", "laterality"])
@pytest.mark.parametrize("source", ["patient", "hospital", "row", "file"])
def test_every_free_text_fact_is_emptied_for_every_source_of_names(fact: str, source: str) -> None:
    word = "Quillfeather"
    dataset = header(**{"patient": {"PatientName": word}, "hospital": {"InstitutionName": word}}.get(source, {}))
    row = {"patient_id": word if source == "row" else "1"}
    names = [f"{word}.dcm"] if source == "file" else []
    facts = {fact: f"for {word}", "modality": "CT", "series": "1.2.3"}
    assert identifiers.redact_facts(facts, identifiers.find_people(dataset), row, names) == facts | {fact: ""}


def test_facts_that_are_no_free_text_are_unchanged() -> None:
    facts = {"modality": "CT", "series": "1.2.3.4711", "age": "063Y"}
    assert identifiers.redact_facts(facts, identifiers.find_people(header(PatientID="4711")), {}, []) == facts


def test_without_a_dicom_header_secrets_of_row_and_file_names_still_count() -> None:
    facts = {"model": "for Zelda", "kernel": "Quillfeather"}
    assert identifiers.redact_facts(facts, identifiers.People(), {"patient_id": "Zelda"}, ["Quillfeather.nii"]) == {
        "model": "",
        "kernel": "",
    }


def test_stored_cells_are_those_with_a_text() -> None:
    rows = [
        {"site": "Northgate", "scanner": "", "label": "benign"},
        {"labeller": "ann", "labelled_at": "2026", "stage": "T1"},
        {"scanner": "ACME 7"},
    ]
    assert identifiers.free_text_cells(rows) == {
        "Northgate": "site",
        "ann": "labeller",
        "2026": "labelled_at",
        "T1": "stage",
        "ACME 7": "scanner",
    }


@pytest.mark.parametrize(
    ("secret", "cell", "is_refused"),
    [
        ("Zelda", "Zelda", True),  # as a word, from four letters on
        ("Zelda", "ward of ZELDA", True),
        ("Zelda", "ann,zelda;bob", True),
        ("Zelda", "ann/zelda", True),
        ("Zelda", "zeldas ward", False),  # five letters within another word may be chance
        ("Zeldaa", "xzeldaax", True),  # six are not
        ("12-3456", "room 12 3456", True),  # written with spaces
        ("Roy", "roy", False),  # a short name may be a labeller's
        ("4711", "4711", True),
        ("4711", "14711", False),
        ("12-34", "12-34", True),
    ],
)
def test_a_cell_is_refused_where_it_repeats_the_patient(secret: str, cell: str, is_refused: bool) -> None:
    secrets = identifiers.secrets_of_row({"patient_id": secret})
    if not is_refused:
        identifiers.check_cells("row 2", {cell: "site"}, secrets)
        return
    with pytest.raises(Fault, match="row 2: the column site of its row repeats the patient's name or number"):
        identifiers.check_cells("row 2", {"honest": "scanner", cell: "site"}, secrets)


@pytest.mark.parametrize(
    ("message", "content", "expected"),
    [
        ("cannot read Zeld", b"..Zeld..", "cannot read …"),  # four letters that occur in the file
        ("cannot read Zel", b"..Zel..", "cannot read Zel"),  # three may be chance
        ("cannot read Zelda", b"..zelda..", "cannot read Zelda"),
        ("cannot read Zelda", b"", "cannot read Zelda"),
        ("Müller is no number", b"", "… is no number"),  # the file may hold it in any encoding
        ("a\nb\tc", b"", "a…b…c"),
    ],
)
def test_quoted_words_are_removed_from_a_message(message: str, content: bytes, expected: str) -> None:
    assert identifiers.remove_quoted_words(message, content) == expected


def test_accents_and_case_make_no_difference() -> None:
    assert (
        identifiers.fold_text("MÜLLER")
        == identifiers.fold_text("Müller")
        == identifiers.fold_text("Mu\u0308ller")
        == "muller"
    )
    assert identifiers.fold_text("STRASSE") == identifiers.fold_text("straße")


def nested(depth: int, **attributes: str) -> Dataset:
    """A header with these attributes in an item that is `depth` sequences deep."""
    dataset = header(**attributes)
    for _ in range(depth):
        outer = Dataset()
        outer.RequestAttributesSequence = [dataset]
        dataset = outer
    return dataset


@pytest.mark.parametrize("keyword", ["PatientID", "AccessionNumber", "RequestedProcedureID", "StudyID", "AdmissionID"])
def test_numbers_of_nested_items_are_secrets(keyword: str) -> None:
    secrets = identifiers.find_people(nested(2, **{keyword: "R4711-0815"})).patient
    assert identifying(secrets, "for r47110815", "R4711-0815", "R4711") == ["for r47110815", "R4711-0815"]
    assert (
        identifiers.find_people(nested(identifiers.MAX_DEPTH, PatientID="R4711-0815")).patient != identifiers.Secrets()
    )
    assert (
        identifiers.find_people(nested(identifiers.MAX_DEPTH + 1, PatientID="R4711-0815")).patient
        == identifiers.Secrets()
    )


def test_a_kind_of_examination_and_a_short_order_number_are_no_secrets() -> None:
    for text in ("CTTHORAX", "12345", "1"):
        assert identifiers.find_people(nested(1, RequestedProcedureID=text)).patient == identifiers.Secrets(), text


def test_frames_and_unreadable_sequences_are_skipped() -> None:
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    dataset = header(PatientID="R4711-0815")
    dataset.PerFrameFunctionalGroupsSequence = [header(PatientID="X9922-3344")]
    tag = Tag(0x00081111)
    dataset[tag] = RawDataElement(tag, "SQ", 4, b"junk", 0, False, True)
    assert identifying(identifiers.find_people(dataset).patient, "R4711-0815", "X9922-3344") == ["R4711-0815"]
