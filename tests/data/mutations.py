"""Mutated scans for the tests of hostile files, made and read in a process of its own with a limit of memory.

    python -m tests.data.mutations FOLDER SEED COUNT

reads the originals in FOLDER and prints, as JSON, what came of COUNT mutations: outcomes, everything that is no clear
sentence, the seconds of computing of the slowest, and the most memory that the process held.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

SECONDS = 60  # for one file, by the clock, on a busy machine
CPU_S = 8  # for one file, of computing
MEMORY = 6 * 2**30  # bytes of address space, of which the libraries themselves take about two
PEAK_MIB = 1024  # held at once: the libraries, and four times the few megabytes of any original decoded, with room
LENGTHS = (b"\xff\xff\xff\xff", b"\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xfe\xff")
ROW = {"patient_id": "somebody"}


def mutated(original: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """One to four of: flipped bits, random bytes, hostile lengths, a cut, a hole, a repeat, a piece of another file."""
    content = bytearray(original)
    for _ in range(int(random.integers(1, 5))):
        if len(content) < 8:
            break
        kind = int(random.integers(7))
        at = _place(len(content), random)
        size = int(random.integers(1, 64))
        if kind == 0:
            for spot in (_place(len(content), random) for _ in range(int(random.integers(1, 9)))):
                content[spot] ^= 1 << int(random.integers(8))
        elif kind == 1:
            content[at : at + size] = random.bytes(len(content[at : at + size]))
        elif kind == 2:
            value = LENGTHS[int(random.integers(len(LENGTHS)))]
            content[at : at + len(value)] = value
        elif kind == 3:
            del content[at:]
        elif kind == 4:
            del content[at : at + size]
        elif kind == 5:
            content[at:at] = content[at : at + size] * int(random.integers(1, 9))
        else:
            start = int(random.integers(max(1, len(other) - 512)))
            content[at : at + size] = other[start : start + int(random.integers(1, 512))]
    return bytes(content)


def _place(length: int, random: np.random.Generator) -> int:
    """Half of the places in the first kilobyte: headers break more than pixels do."""
    return int(random.integers(min(length, 1024) if random.random() < 0.5 else length))


def outcome(name: str, content: bytes) -> str:
    """ "read" or "refused"; anything else is a fault of ours. Runs read and de-identification."""
    from data.deidentify.dicom import anonymise
    from data.scan.read import read
    from lineage.errors import Fault

    signal.alarm(SECONDS)
    try:
        scan = read(name, content)
        if content[:4] != b"PK\x03\x04":
            anonymise(name, content, ROW)
        return "read" if np.isfinite(scan.pixels).all() else "numbers that are none"
    except Fault as fault:
        text = str(fault)
        clear = text.startswith(f"{name}: ") and len(text) < 600 and text.isprintable() and "MemoryError" not in text
        return "refused" if clear else f"unclear: {text[:300]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)


def late(_signal: int, _frame: FrameType | None) -> None:
    """No Exception of the usual kind: what catches those must not hide it."""
    raise KeyboardInterrupt(f"took more than {SECONDS} s")


def run(folder: Path, seed: int, count: int) -> dict[str, Any]:
    """Mutate and read; number k of a seed is always the same file."""
    originals = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    found: Counter[str] = Counter()
    bad, slowest = [], 0.0
    for number in range(count):
        random = np.random.default_rng([seed, number])
        name, content = originals[int(random.integers(len(originals)))]
        _, other = originals[int(random.integers(len(originals)))]
        hostile = mutated(content, other, random)
        Path(f"{folder}.now").write_text(f"{seed} {number} {name}")
        start = time.process_time()
        try:
            came = outcome("x.dcm", hostile)
        except KeyboardInterrupt as error:
            came = str(error)
        slowest = max(slowest, time.process_time() - start)
        found[came if came in ("read", "refused") else "bad"] += 1
        if came not in ("read", "refused"):
            bad.append(f"{seed} {number} {name}: {came}")
    return {"outcomes": dict(found), "bad": bad, "cpu_s": round(slowest, 2), "peak_mib": peak_mib()}


def peak_mib() -> int:
    """The most memory this program held, in MiB; `ru_maxrss` also counts what its parent held when it was started."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024


def main() -> None:
    """See the module's text."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sys.stdout.write(json.dumps(run(folder, seed, count)))


if __name__ == "__main__":
    main()
