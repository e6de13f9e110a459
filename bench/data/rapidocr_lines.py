"""Text that RapidOCR reads in pictures. It runs in an environment of its own; bench/data/text_search.py starts it.

PATH/python bench/data/rapidocr_lines.py pictures.npz lines.json
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
from rapidocr import RapidOCR


def main() -> None:
    """For each picture (8 bits, in order of its name): its lines of text with box and score, and the milliseconds."""
    engine, results = RapidOCR(), []
    logging.disable(logging.WARNING)
    with np.load(sys.argv[1]) as pictures:
        engine(np.repeat(pictures[pictures.files[0]][..., None], 3, 2))  # loads its three networks
        for name in sorted(pictures.files):
            picture = np.repeat(pictures[name][..., None], 3, 2)
            start = time.perf_counter()
            output = engine(picture)
            milliseconds = 1e3 * (time.perf_counter() - start)
            lines = (
                [
                    {
                        "text": text,
                        "score": round(float(score), 3),
                        "rows": [float(box[:, 1].min()), float(box[:, 1].max())],
                        "columns": [float(box[:, 0].min()), float(box[:, 0].max())],
                    }
                    for box, text, score in zip(output.boxes, output.txts or (), output.scores or (), strict=True)
                ]
                if output.boxes is not None and output.txts
                else []
            )
            results.append({"lines": lines, "ms": milliseconds})
    Path(sys.argv[2]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
