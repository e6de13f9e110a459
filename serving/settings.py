"""The settings of a release and its endpoint, as `params.yaml` names them under `serving`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServingSettings:
    """How a release answers.

    `engine` is `openvino` or `onnxruntime`; `workers` are processes; `max_upload_mb` bounds one request;
    `abstain_below` is the largest calibrated probability under which the answer is withheld;
    `outlier_quantile` is that quantile of held-out patients' feature distance above which it is withheld.
    """

    engine: str
    workers: int
    keep_scans: bool
    max_upload_mb: int
    abstain_below: float
    outlier_quantile: float
