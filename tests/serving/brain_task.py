"""The task of a small brain MR network."""

from __future__ import annotations

from data.core_types import Modality, PixelSettings, Pooling, Task

BRAIN = Task(
    name="brain-mr",
    title="Brain",
    organ="brain",
    modality=Modality.MR,
    body_parts=("BRAIN",),
    classes=("no_tumour", "tumour"),
    positive=("tumour",),
    unit="slice",
    cluster="patient",
    ordered=False,
    pixels=PixelSettings(64, None),
    pooling=Pooling("topk", 3),
    sensitivity=0.9,
    note="",
)
