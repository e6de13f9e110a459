"""Answer a case: predict, write the journal, and only then return the answer. For the endpoint and command line."""

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
from serving.inference.request import Requester, Upload

log = logging.getLogger(__name__)


class Withheld(Fault):
    """The answer could not be written to the journal, so it is withheld; the scan itself is fine."""


def answer(release: Release, uploads: Sequence[Upload], task: str | None, requester: Requester | str) -> dict[str, Any]:
    """Answer one case for an account, as plain JSON with an id and the duration.

    Every returned answer has exactly one row in the journal. An answer can be lost after its row was written, if the
    worker is killed before the response is sent. A second request with the same key, files and release gets the answer
    of that row and adds no second row, because the row's id is a hash of these. One gap remains: if every try of a
    request is lost, the journal may have a row whose id and answer the sender never received.

    Raises Fault for a problem with the files or the task, Withheld if the journal cannot be written.
    """
    started_at = time.perf_counter()
    requester = Requester(requester) if isinstance(requester, str) else requester
    shadows = _shadowed_answer(requester)
    prediction = predict(release, uploads, task or None, at=database.now(), site=requester.site)
    duration_ms = round((time.perf_counter() - started_at) * 1000, 2)
    prediction = replace(prediction, id=_answer_id(prediction, requester), duration_ms=duration_ms)
    row = replace(journal_row(prediction, requester.account), shadows=shadows)
    try:
        is_new = journal.append(row, again=bool(requester.idempotency_key))
    except Exception as error:  # the database may fail in many ways; without a row there is no answer
        log.exception("prediction %s could not be journalled", prediction.id)
        raise Withheld("the answer could not be written to the journal, so it is withheld; try again") from error
    return to_json(prediction) if is_new else _earlier_answer(prediction)


def _answer_id(prediction: Prediction, requester: Requester) -> str:
    if not requester.idempotency_key:
        return uuid.uuid4().hex
    sender = (requester.account, requester.idempotency_key, requester.live_answer_id)
    return text_sha256("\n".join((*sender, prediction.release, prediction.task, *prediction.inputs)))[:32]


def _earlier_answer(prediction: Prediction) -> dict[str, Any]:
    """The answer of an earlier try of the same request: the same figures, with the time and duration of its row."""
    row = journal.get(prediction.id)
    if (row.answer, row.probabilities) != (prediction.answer, list(prediction.probabilities)):
        raise Withheld(f"the journal has another answer to this request, {prediction.id}; use another idempotency key")
    return to_json(replace(prediction, at=row.at, duration_ms=row.duration_ms))


def _shadowed_answer(requester: Requester) -> str:
    """The id of the live answer that a shadow's answer belongs to; empty for every account but the shadow's own."""
    if requester.account != accounts.SHADOW_ACCOUNT:
        return ""
    if not re.fullmatch(r"[0-9a-f]{32}", requester.live_answer_id):
        raise Fault(
            f"{accounts.SHADOW_ACCOUNT} answers only after a live answer; send that answer's id in the header `shadows`"
        )
    return requester.live_answer_id
