"""The settings of a release and its endpoint, as `params.yaml` names them under `serving`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from data.ranges import Range
from serving.inference.manifest import Engine, UnknownSites


@dataclass(frozen=True)
class ServingSettings:
    """How a release answers.

    `engine` is `openvino` or `onnxruntime`. `workers` is the number of processes. `max_upload_mb` limits one request.
    The answer is withheld if the largest calibrated probability is under `abstain_below`. It is also withheld if the
    feature distance is above the quantile `outlier_quantile` of the held-out patients' distances. `unknown_sites` says
    what happens to scans of a site or scanner that was not accepted: `withhold` the answer, or `answer` with a warning.
    `site` is the name of the desk's own site, for uploads that name none.
    """

    engine: Engine
    workers: Annotated[int, Range(least=1, unit="processes")]
    max_upload_mb: Annotated[int, Range(least=1, unit="megabytes")]
    abstain_below: Annotated[float, Range(least=0, most=1, unit="probability")]
    outlier_quantile: Annotated[float, Range(above=0, most=1, unit="quantile")]
    unknown_sites: UnknownSites = "withhold"
    site: str = ""
