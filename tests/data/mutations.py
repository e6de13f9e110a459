"""Mutated scans for the tests of hostile files, created and read in a separate process with a memory limit.

    python -m tests.data.mutations FOLDER SEED COUNT

reads the originals in FOLDER and prints the result of COUNT mutations as JSON: outcomes, every answer that is no clear
sentence, the CPU seconds of the slowest file, and the peak memory of the process.
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

SECONDS = 60  # for one file, wall time on a busy machine
CPU_S = 8  # for one file, CPU time
MEMORY = 6 * 2**30  # bytes of address space; the libraries themselves take about two GiB
PEAK_MIB = 1024  # peak memory: the libraries, four times the few decoded megabytes of any original, and a margin
LENGTHS = (b"\xff\xff\xff\xff", b"\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xfe\xff")
ROW = {"patient_id": "somebody"}


def mutate_file(original: bytes, donor: bytes, random: np.random.Generator) -> bytes:
    """The file after one to four of: flipped bits, random bytes, lengths, a cut, a hole, a repeat, a donor piece."""
    content = bytearray(original)
    for _ in range(int(random.integers(1, 5))):
        if len(content) < 8:
            break
        kind = int(random.integers(7))
        position = _position(len(content), random)
        size = int(random.integers(1, 64))
        if kind == 0:
            for offset in (_position(len(content), random) for _ in range(int(random.integers(1, 9)))):
                content[offset] ^= 1 << int(random.integers(8))
        elif kind == 1:
            content[position : position + size] = random.bytes(len(content[position : position + size]))
        elif kind == 2:
            value = LENGTHS[int(random.integers(len(LENGTHS)))]
            content[position : position + len(value)] = value
        elif kind == 3:
            del content[position:]
        elif kind == 4:
            del content[position : position + size]
        elif kind == 5:
            content[position:position] = content[position : position + size] * int(random.integers(1, 9))
        else:
            start = int(random.integers(max(1, len(donor) - 512)))
            content[position : position + size] = donor[start : start + int(random.integers(1, 512))]
    return bytes(content)


def _position(length: int, random: np.random.Generator) -> int:
    """A random position, half of the time in the first kilobyte: headers are more fragile than pixels."""
    return int(random.integers(min(length, 1024) if random.random() < 0.5 else length))


def outcome(name: str, content: bytes) -> str:
    """ "read" or "refused"; any other text is a defect. Runs reading and de-identification."""
    from data.deidentify.deidentify_file import deidentify_file
    from data.scan.read import read_scan
    from lineage.errors import Fault

    signal.alarm(SECONDS)
    try:
        scan = read_scan(name, content)
        if content[:4] != b"PK\x03\x04":
            deidentify_file(name, content, ROW)
        return "read" if np.isfinite(scan.pixels).all() else "non-finite pixels"
    except Fault as fault:
        text = str(fault)
        is_clear = text.startswith(f"{name}: ") and len(text) < 600 and text.isprintable() and "MemoryError" not in text
        return "refused" if is_clear else f"unclear: {text[:300]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)


def raise_timeout(_signal: int, _frame: FrameType | None) -> None:
    """Raise a KeyboardInterrupt, which handlers of Exception do not catch."""
    raise KeyboardInterrupt(f"took more than {SECONDS} s")


def run(folder: Path, seed: int, count: int) -> dict[str, Any]:
    """Mutate and read files; number k of a seed is always the same file."""
    originals = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    outcomes: Counter[str] = Counter()
    bad, slowest = [], 0.0
    for number in range(count):
        random = np.random.default_rng([seed, number])
        name, content = originals[int(random.integers(len(originals)))]
        _, donor = originals[int(random.integers(len(originals)))]
        hostile = mutate_file(content, donor, random)
        Path(f"{folder}.now").write_text(f"{seed} {number} {name}")
        start = time.process_time()
        try:
            result = outcome("x.dcm", hostile)
        except KeyboardInterrupt as error:
            result = str(error)
        slowest = max(slowest, time.process_time() - start)
        outcomes[result if result in ("read", "refused") else "bad"] += 1
        if result not in ("read", "refused"):
            bad.append(f"{seed} {number} {name}: {result}")
    return {"outcomes": dict(outcomes), "bad": bad, "cpu_s": round(slowest, 2), "peak_mib": peak_mib()}


def peak_mib() -> int:
    """The peak memory of this process in MiB; `ru_maxrss` would include memory of its parent at the start."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024


def main() -> None:
    """Run the mutations of the command line, see the module docstring."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, raise_timeout)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sys.stdout.write(json.dumps(run(folder, seed, count)))


if __name__ == "__main__":
    main()
