"""An answer that is given: predicted, journalled, and only then told. For the endpoint and the command line."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lineage import accounts
from lineage.errors import Fault
from lineage.fingerprint import text_sha256
from lineage.record import database, journal
from serving.inference.predict import Prediction, Release, journal_row, predict, to_json
from serving.inference.request import Asker, Upload

log = logging.getLogger(__name__)


class Withheld(Fault):
    """An answer could not be written to the journal, so it is not given; nothing was wrong with the scan."""


def answer(release: Release, uploads: Sequence[Upload], task: str | None, asker: Asker | str) -> dict[str, Any]:
    """Answer one case for an account, as plain JSON with an id and the time it took.

    Every answer that is given has exactly one row of the journal. An answer may be lost after its row was written: the
    worker is killed before the bytes have left. Who asks again with the same key, for the same files, of the same
    release, gets the answer of that row and no second one is written; the row's id follows from these. What remains: a
    request of which every try was lost may have left a row whose answer nobody has, under an id that nobody was told.

    Raises Fault for what is wrong with the files or the task, Withheld where the journal did not take the row.
    """
    begun = time.perf_counter()
    asker = Asker(asker) if isinstance(asker, str) else asker
    shadows = _shadowed(asker)
    prediction = predict(release, uploads, task or None, at=database.now())
    took = round((time.perf_counter() - begun) * 1000, 2)
    prediction = replace(prediction, id=_id(prediction, asker), duration_ms=took)
    try:
        new = journal.append(replace(journal_row(prediction, asker.name), shadows=shadows), again=bool(asker.key))
    except Exception as error:  # whatever the database's reason is: no row, no answer
        log.exception("prediction %s could not be journalled", prediction.id)
        raise Withheld("the answer could not be written to the journal, so it is withheld; try again") from error
    return to_json(prediction) if new else _as_it_stands(prediction)


def _id(prediction: Prediction, asker: Asker) -> str:
    if not asker.key:
        return uuid.uuid4().hex
    asked = (asker.name, asker.key, asker.shadows, prediction.release, prediction.task, *prediction.inputs)
    return text_sha256("\n".join(asked))[:32]


def _as_it_stands(prediction: Prediction) -> dict[str, Any]:
    """The answer of an earlier try of the same request: the same figures, and the time and duration of its row."""
    row = journal.get(prediction.id)
    if (row["answer"], row["probabilities"]) != (prediction.answer, list(prediction.probabilities)):
        raise Withheld(f"the journal holds another answer to this request, {prediction.id}; ask with another key")
    return to_json(replace(prediction, at=row["at"], duration_ms=row["duration_ms"]))


def _shadowed(asker: Asker) -> str:
    """The answer that this one stands behind: only the shadows' own account gives such answers, and no other ones."""
    if asker.name != accounts.SHADOW_ACCOUNT:
        return ""
    if not re.fullmatch(r"[0-9a-f]{32}", asker.shadows):
        raise Fault(
            f"{accounts.SHADOW_ACCOUNT} answers only behind another answer; name that one's id in the header `shadows`"
        )
    return asker.shadows
