"""The served release beside the usual way, side by side on this machine: latency, throughput, start, memory, overload.

    python bench/serve.py                                  both networks, about 15 minutes
    python bench/serve.py --networks small --seconds 5     a quick look
    python bench/serve.py --isa AVX512_CORE_VNNI           as on a CPU without AMX

For `small` (128 × 128) and ResNet-50 (224 × 224), with weights by chance: a real Bento of the product, built, checked
and served by two workers, against the same network behind Flask (bench/usual.py), once as `flask run`, once under
gunicorn with two workers. One 512 × 512 slice as DICOM and as JPEG, and a series of 100 slices. `bare` is decoding,
preprocessing, graph and map in this process. Users are threads of this process (bench/load.py), on the same cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a bench reads the rooms beside it

import psutil

from bench import load
from bench.staged import (
    SIZES,
    SLICES,
    TASK,
    bare,
    front,
    made,
    picture,
    release,
    served,
    slices,
    started,
    usual,
    workers_mb,
)
from lineage import accounts, keys, paths
from lineage.record import database
from serving.bundle import bento_server as releases

EMPTY = """
import bentoml

@bentoml.service(name="empty", workers=2)
class Empty:
    @bentoml.api
    def hello(self) -> str:
        return "hello"
"""


def measure(name: str, work: Path, options: argparse.Namespace, token: str) -> dict[str, Any]:
    """Everything of one network."""
    source = made(work / name, name)
    tag, folder = release(paths.home() / "releases" / name, source, name, options.precision)
    series_files, one = slices(SLICES), slices(1)
    kinds = {"dicom": one, "jpeg": [("a.jpg", picture())], "series": series_files}
    forms = {kind: load.form(files, TASK, "/predict", releases.shown(token)) for kind, files in kinds.items()}
    environment = {"ONEDNN_MAX_CPU_ISA": options.isa} if options.isa else {}
    figures: dict[str, Any] = {}
    with served(tag, environment) as (url, process):
        for kind, files in kinds.items():
            runs = 3 if kind == "series" else options.runs
            figures |= beside(
                kind,
                lambda files=files, runs=runs: bare(folder, files, runs),
                lambda kind=kind, runs=runs: load.ask(url, forms[kind], 1, 0, runs).percentile(0.5),
            )
        command, address = front(url, name)
        with started(command, f"{address}/healthz", {}, work):
            through = load.form(kinds["dicom"], TASK, "/api/predict", token)
            direct, hop = [], []
            for _ in range(3):
                direct.append(load.ask(url, forms["dicom"], 1, 0, options.runs).percentile(0.5))
                hop.append(load.ask(address, through, 1, 0, options.runs).percentile(0.5))
            figures["front_ms"] = round(1000 * (statistics.median(hop) - statistics.median(direct)), 2)
        for kind in ("dicom", "jpeg"):
            figures[f"{kind}_per_second"] = round(load.ask(url, forms[kind], 16, options.seconds).per_second, 1)
        figures["worker_mb"] = round(workers_mb(process))
        figures |= crowd(url, forms["dicom"], process, options)
    for label, workers in (("flask", 0), ("gunicorn", 2)):
        command, address, more = usual(source, workers)
        with started(command, f"{address}/healthz", environment | more, work):
            for kind in ("dicom", "jpeg"):
                load.ask(address, forms[kind], 2, 0, 2)
                if not workers:
                    figures[f"{label}_{kind}_p50_ms"] = round(
                        1000 * load.ask(address, forms[kind], 1, 0, 8).percentile(0.5), 1
                    )
                there = load.ask(address, forms[kind], 16, options.seconds)
                figures[f"{label}_{kind}_per_second"] = round(there.per_second, 2)
                figures[f"{label}_{kind}_ratio"] = round(figures[f"{kind}_per_second"] / there.per_second, 1)
    return figures


def beside(kind: str, bare_once: Callable[[], float], asked_once: Callable[[], float]) -> dict[str, float]:
    """Median milliseconds of the bare work and of an answer over HTTP to one user, three times in turn."""
    pairs = [(bare_once(), asked_once()) for _ in range(3)]
    alone, answer = (statistics.median(one) for one in zip(*pairs, strict=True))
    return {
        f"{kind}_bare_ms": round(1000 * alone, 2),
        f"{kind}_p50_ms": round(1000 * answer, 2),
        f"{kind}_factor": round(answer / alone, 2),
    }


def crowd(url: str, request: bytes, process: psutil.Process, options: argparse.Namespace) -> dict[str, Any]:
    """64 users for a while; then far more than there is room for; then one again."""
    before = workers_mb(process)
    many = load.ask(url, request, 64, options.crowd)
    after = workers_mb(process)
    flood = load.ask(url, request, 400, min(5.0, options.crowd))
    again = load.ask(url, request, 1, 0, 10)
    refused = sorted(flood.refusals)
    return {
        "64_users": {
            "seconds": options.crowd,
            "answers": len(many.latencies),
            "statuses": many.statuses,
            "p50_ms": round(1000 * many.percentile(0.5)),
            "p99_ms": round(1000 * many.percentile(0.99)),
            "p99_over_p50": round(many.percentile(0.99) / many.percentile(0.5), 2),
            "mb_before": round(before),
            "mb_after": round(after),
        },
        "400_users": {
            "statuses": flood.statuses,
            "refused_after_p50_ms": round(1000 * refused[len(refused) // 2]) if refused else None,
            "one_user_afterwards_p50_ms": round(1000 * again.percentile(0.5), 2),
            "statuses_afterwards": again.statuses,
        },
    }


def readiness(work: Path, tag: str, rounds: int) -> dict[str, float]:
    """Median seconds until the product's server and an empty BentoML service are ready, in turn."""
    from serving.bundle import bento_server as products

    (work / "empty_service.py").write_text(EMPTY)
    seconds: dict[str, list[float]] = {"product": [], "empty": []}
    for _ in range(rounds):
        port = products.free_port()
        begun = time.perf_counter()
        command = [sys.executable, "-m", "bentoml", "serve", "empty_service:Empty", "--port", str(port)]
        with started(command, f"http://127.0.0.1:{port}/readyz", products.environment(), work):
            seconds["empty"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        server = products.start(tag, workers=2)
        products.wait_ready(server.url, 120, server)
        seconds["product"].append(time.perf_counter() - begun)
        server.stop()
    medians = {f"ready_{name}_s": round(statistics.median(each), 2) for name, each in seconds.items()}
    return medians | {"ready_later_s": round(medians["ready_product_s"] - medians["ready_empty_s"], 2)}


def main() -> None:
    """Build, serve, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--isa", default="", help="the most that oneDNN may use, such as AVX512_CORE_VNNI")
    parser.add_argument("--runs", type=int, default=50, help="of one user")
    parser.add_argument("--seconds", type=float, default=15, help="of 16 users")
    parser.add_argument("--crowd", type=float, default=60, help="seconds of 64 users")
    parser.add_argument("--rounds", type=int, default=3, help="of starts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["ONCOLOOP_HOME"] = f"{scratch}/var"
        os.environ |= paths.environment()
        keys.create()
        database.migrate()
        accounts.add("bench", "clinician")
        token = accounts.issue("bench", "predict", 1)
        found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "isa": options.isa or "all"}
        for name in options.networks:
            sys.stderr.write(f"{name}\n")
            found[name] = measure(name, Path(scratch), options, token)
        found |= readiness(Path(scratch), f"oncoloop:{options.networks[0]}", options.rounds)
    lines = [f"{name}: {one}" for name, one in flat(found)]
    sys.stdout.write((json.dumps(found) if options.json else "\n".join(lines)) + "\n")


def flat(found: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of every figure, one below the other."""
    for name, one in found.items():
        if isinstance(one, dict) and not all(isinstance(key, int) for key in one):
            yield from flat(one, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", one


if __name__ == "__main__":
    main()
