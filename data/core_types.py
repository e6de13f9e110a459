"""Core types: task, scan, unit, and the columns of the tables of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from data.ranges import Range
from lineage.errors import Fault

Hounsfield = Annotated[float, Range(unit="HU")]
WindowWidth = Annotated[float, Range(above=0, unit="HU")]
PoolingRule = Literal["mean", "topk"]
Cluster = Literal["patient", "group"]  # slices of one patient are not independent


class Modality(StrEnum):
    """The modalities that a task can have."""

    CT = "CT"
    MR = "MR"


class ValueUnit(StrEnum):
    """The unit of a pixel value: Hounsfield units, arbitrary scanner units, or display grey from 0 to 255."""

    HU = "HU"
    RAW = "raw"
    DISPLAY = "display"


class FieldOfView(StrEnum):
    """What a slice shows: a cross-section of the body with the air around it, or a crop of one."""

    BODY = "body"
    CROP = "crop"


class Truth(StrEnum):
    """How a label is known, strongest first."""

    PATHOLOGY = "pathology"
    FOLLOW_UP = "follow-up"
    READER = "reader"
    REPORT = "report"


class Side(StrEnum):
    """The cohort of a cluster."""

    TRAINING = "training"
    VALIDATION = "validation"
    TEST = "test"


class MaskMeaning(StrEnum):
    """What an outline means for its unit: it has a lesion of any kind, or it is positive."""

    LESION = "lesion"
    POSITIVE = "positive"


@dataclass(frozen=True)
class PixelSettings:
    """How a slice becomes the network input: `size` × `size` pixels; `window` (centre, width) in HU for CT.

    `window` is None if intensities are arbitrary (MR). Then the 1st to 99.5th percentile of the slice is used.
    """

    size: Annotated[int, Range(least=16, unit="pixels")]
    window: tuple[Hounsfield, WindowWidth] | None


@dataclass(frozen=True)
class Pooling:
    """How the slices of a case are pooled to one answer: `mean`, or `topk` (mean of the k most positive slices)."""

    rule: PoolingRule
    k: Annotated[int, Range(least=0, unit="slices")]


@dataclass(frozen=True)
class Task:
    """One question about one kind of scan, answered by one model. It is read from `params.yaml`.

    `mask` is the meaning of an outline. If it means a lesion of any kind, `lesion_free` are the classes without lesion.
    """

    name: str
    title: str
    organ: str
    modality: Modality
    body_parts: tuple[str, ...]
    classes: tuple[str, ...]
    positive: tuple[str, ...]
    unit: Literal["slice"]
    cluster: Cluster
    ordered: bool
    pixels: PixelSettings
    pooling: Pooling
    sensitivity: Annotated[float, Range(above=0, most=1, unit="sensitivity")]
    note: str
    field_of_view: FieldOfView = FieldOfView.BODY
    mask: MaskMeaning = MaskMeaning.POSITIVE
    lesion_free: tuple[str, ...] = ()

    @property
    def contradicted(self) -> tuple[str, ...]:
        """The classes that an outline contradicts.

        If an outline means a positive unit, this is the first class, which has no finding. If the classes are ordered,
        there is none, because every class has a finding.
        """
        if self.mask is MaskMeaning.LESION:
            return self.lesion_free
        return () if self.ordered else tuple(name for name in self.classes[:1] if name not in self.positive)

    @property
    def unclear_index(self) -> list[int]:
        """Positions of the classes whose units can show a lesion although their mask is empty.

        Their label can be that of the patient, or belong to a lesion without an outline.
        """
        free = self.lesion_free if self.mask is MaskMeaning.LESION else set(self.classes) - set(self.positive)
        return [index for index, name in enumerate(self.classes) if name not in free]

    @property
    def positive_index(self) -> list[int]:
        """Positions of the positive classes among `classes`."""
        return [self.classes.index(name) for name in self.positive]


@dataclass(frozen=True)
class HeaderIdentity:
    """Identity, institution and UIDs in a DICOM header, in clear; "" where missing. It is never written to disk."""

    patient_id: str = ""
    name: str = ""
    birth_date: str = ""
    study: str = ""
    series: str = ""
    frame: str = ""
    instance: str = ""
    others: tuple[str, ...] = ()  # OtherPatientIDs
    institution: str = ""


@dataclass(frozen=True)
class Scan:
    """One file or one series, decoded: `pixels` float32, slices × height × width, in `units`.

    `spacing`: (slice distance, row, column) in mm, None if the format does not state it.
    `header`: plain facts on the scan (modality, body_part, manufacturer, model, kernel, ...), never an identity.
    `patient_id`: the patient ID in the file, only for the pseudonym. `identity`: all identity in the header, only for
    comparison. `scanner`: manufacturer and model in the header, only for its hash. `affine` (4 × 4) maps (slice, row,
    column, 1) to mm in the patient, None if the file has none. `directions`: the directions in which the file stores
    columns, rows and slices, "" if the file has none; see data/scan/geometry.py. `padding`: the mask of pixels
    outside of the field of view, which have the value of the surroundings; None if there are none. `hides`: the pixel
    data of the file contain more than `pixels`. `left_out`: the files of a series that are none of its slices, with
    the reason. `order`: the number of each slice in its file, from 0, if that is not its position here.
    """

    name: str
    pixels: NDArray[np.float32]
    units: ValueUnit
    modality: Modality | None
    spacing: tuple[float, float, float] | None
    header: dict[str, str] = field(default_factory=dict)
    patient_id: str = ""
    identity: HeaderIdentity = field(default_factory=HeaderIdentity, repr=False)
    scanner: str = field(default="", repr=False)
    affine: NDArray[np.float64] | None = None
    directions: str = ""
    padding: NDArray[np.bool_] | None = None
    hides: bool = False
    left_out: tuple[tuple[str, str], ...] = ()
    order: tuple[int, ...] = ()


REQUIRED_METADATA = ("file_name", "patient_id", "task", "label")
OPTIONAL_METADATA = (
    "slice",
    "study_date",
    "site",
    "scanner",
    "sex",
    "age",
    "labeller",
    "labelled_at",
    "truth",
    "stage",
    "group",
    "lesion_mm",
    "mask",
    "lesion_value",
)

# One column for each sign of a person, as a keyed pseudonym; "" if the file or the table gives none.
IDENTITY_COLUMNS = (
    "spelling",
    "header_patient",
    "header_person",
    "header_study",
    "header_series",
    "header_frame",
    "header_instance",
    "header_others",
    "header_name",
    "header_birth",
    "group_spelling",
)

# The source in the DICOM header as keyed hashes (lineage/site_hash.py); "" if the file names none.
SOURCE_COLUMNS = ("institution_hash", "scanner_hash")

# One row of manifest.csv is one unit (a slice). Descriptions of `data/scan/slice_features.py` follow these
# columns.
MANIFEST = (
    "unit_id",
    "file",
    "slice",
    "sha256",
    "stored_sha256",
    "pixels_blake3",
    "task",
    "label",
    "truth",
    "patient",
    "cluster",
    "case",
    "study_date",
    "site",
    "scanner",
    "sex",
    "age",
    "labeller",
    "labelled_at",
    "stage",
    "lesion_mm",
    "outlined",
    *IDENTITY_COLUMNS,
    *SOURCE_COLUMNS,
)


INDEPENDENT: tuple[str, ...] = get_args(Cluster)


def check_cluster(task: Task) -> None:
    """Fault if the cohorts of a task would be split by image: slices of one patient are not independent."""
    if task.cluster not in INDEPENDENT:
        raise Fault(
            f"task {task.name}: `cluster: {task.cluster}` would put pictures of one patient on both sides of the "
            f"split; set it to {' or '.join(INDEPENDENT)} in params.yaml"
        )
