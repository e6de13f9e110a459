"""The vocabulary: task, scan, unit, and the columns of a batch's tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from lineage.errors import Fault


class Modality(StrEnum):
    """The kinds of scan that a task can ask for."""

    CT = "CT"
    MR = "MR"


class ValueUnit(StrEnum):
    """What a pixel value means: Hounsfield units, arbitrary scanner units, or display grey of 0 to 255."""

    HU = "HU"
    RAW = "raw"
    DISPLAY = "display"


class FieldOfView(StrEnum):
    """What a slice shows: a cross-section of the body with the air around it, or a part cut out of one."""

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
    """What an outline says of its unit: that a lesion is there, whatever it is; or that the unit is positive."""

    LESION = "lesion"
    POSITIVE = "positive"


@dataclass(frozen=True)
class PixelSettings:
    """How a slice becomes the network's input: `size` pixels square; `window` (centre, width) in HU for CT.

    `window` is None where intensities are arbitrary (MR): then the 1st to 99.5th percentile of the slice is used.
    """

    size: int
    window: tuple[float, float] | None


@dataclass(frozen=True)
class Pooling:
    """How the slices of a case become one answer: `mean`, or `topk` (mean of the k most positive slices)."""

    rule: str
    k: int


@dataclass(frozen=True)
class Task:
    """One question to one kind of scan; one model answers it. Read from `params.yaml`.

    `mask` is what an outline means. Where it means a lesion of any kind, `lesion_free` are the classes that have none.
    """

    name: str
    title: str
    organ: str
    modality: Modality
    body_parts: tuple[str, ...]
    classes: tuple[str, ...]
    positive: tuple[str, ...]
    unit: str
    cluster: str
    ordered: bool
    pixels: PixelSettings
    pooling: Pooling
    sensitivity: float
    note: str
    field_of_view: FieldOfView = FieldOfView.BODY
    mask: MaskMeaning = MaskMeaning.POSITIVE
    lesion_free: tuple[str, ...] = ()

    @property
    def contradicted(self) -> tuple[str, ...]:
        """The classes that an outline contradicts.

        Where it means a positive unit that is the first class, the one without a finding; of ordered classes every one
        has a finding.
        """
        if self.mask is MaskMeaning.LESION:
            return self.lesion_free
        return () if self.ordered else tuple(name for name in self.classes[:1] if name not in self.positive)

    @property
    def unclear_index(self) -> list[int]:
        """Positions of the classes whose units may show a lesion where their mask is empty.

        Their label may be their patient's, or be given for a lesion that nobody outlined.
        """
        free = self.lesion_free if self.mask is MaskMeaning.LESION else set(self.classes) - set(self.positive)
        return [index for index, name in enumerate(self.classes) if name not in free]

    @property
    def positive_index(self) -> list[int]:
        """Positions of the positive classes among `classes`."""
        return [self.classes.index(name) for name in self.positive]


@dataclass(frozen=True)
class HeaderIdentity:
    """Who a DICOM header names and where the file belongs, in clear; it never leaves memory. "" for nothing."""

    patient_id: str = ""
    name: str = ""
    birth_date: str = ""
    study: str = ""
    series: str = ""
    frame: str = ""
    instance: str = ""
    others: tuple[str, ...] = ()  # OtherPatientIDs


@dataclass(frozen=True)
class Scan:
    """One file or one series, decoded: `pixels` float32, slices × height × width, in `units`.

    `spacing` is (slice distance, row, column) in mm, None where the format does not say.
    `header` holds the plain facts that describe the scan (modality, body_part, manufacturer, model, kernel, ...),
    never an identity; `patient_id` is the identity as the file gives it, for the pseudonym only, and `identity` all
    that its header says of whose it is, for comparison only. `affine` (4 × 4) takes
    (slice, row, column, 1) to mm in the patient, `directions` are those in which the file stores columns, rows and
    slices: see data/scan/geometry.py. None and "" where the file does not say. `padding` is the
    mask of pixels outside of the field of view, which hold what surrounds a body; None where there are none. `hides`
    says whether the file's pixel data hold anything that `pixels` don't show. `left_out`
    names the files of a series that are none of its slices, and says why. `order` holds the number of each slice in its
    file, from 0, where that is not its position here.
    """

    name: str
    pixels: NDArray[np.float32]
    units: ValueUnit
    modality: Modality | None
    spacing: tuple[float, float, float] | None
    header: dict[str, str] = field(default_factory=dict)
    patient_id: str = ""
    identity: HeaderIdentity = field(default_factory=HeaderIdentity, repr=False)
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

# One row of a batch's manifest.csv is one unit (a slice). Descriptions of `data/scan/slice_features.py` follow these
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


INDEPENDENT = ("patient", "group")


def check_cluster(task: Task) -> None:
    """Refuse a task whose cohorts would be split by image: slices of one patient are not independent."""
    if task.cluster not in INDEPENDENT:
        raise Fault(
            f"task {task.name}: `cluster: {task.cluster}` would put pictures of one patient on both sides of the "
            f"split; set it to {' or '.join(INDEPENDENT)} in params.yaml"
        )
