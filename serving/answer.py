"""An answer that is given: predicted, journalled, and only then told. For the endpoint and the command line."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lineage import journal, store
from lineage.fault import Fault
from serving.predict import Release, Upload, journal_row, predict, to_json

log = logging.getLogger(__name__)
LONGEST = 60  # characters of a file name that are kept: with a longer one it would not fit a file system


class Withheld(Fault):
    """An answer could not be written to the journal, so it is not given; nothing was wrong with the scan."""


def answer(release: Release, uploads: Sequence[Upload], task: str | None, actor: str) -> dict[str, Any]:
    """Answer one case for `actor`, as plain JSON with an id and the time it took.

    Raises Fault for what is wrong with the files or the task, Withheld where the journal did not take the row.
    """
    begun = time.perf_counter()
    prediction = predict(release, uploads, task or None, id=uuid.uuid4().hex, at=store.now())
    prediction = replace(prediction, duration_ms=round((time.perf_counter() - begun) * 1000, 2))
    try:
        journal.append(journal_row(prediction, actor))
    except Exception as error:  # whatever the database's reason is: no row, no answer
        log.exception("prediction %s could not be journalled", prediction.id)
        raise Withheld("the answer could not be written to the journal, so it is withheld; try again") from error
    return to_json(prediction)


def clean_name(name: str) -> str:
    """A sender's file name made safe to print and store: no folder, no control character, at most 60 characters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[-LONGEST:] or "upload"
