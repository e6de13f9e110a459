"""The settings of a release and its endpoint, as `params.yaml` names them under `serving`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServingSettings:
    """How a release answers.

    `engine` is `openvino` or `onnxruntime`. `workers` is the number of processes. `max_upload_mb` limits one request.
    The answer is withheld if the largest calibrated probability is under `abstain_below`. It is also withheld if the
    feature distance is above the quantile `outlier_quantile` of the held-out patients' distances.
    """

    engine: str
    workers: int
    keep_scans: bool
    max_upload_mb: int
    abstain_below: float
    outlier_quantile: float
