"""Latency, throughput, start-up, memory and overload of a served release, compared with Flask on the same machine.

    python bench/serving/release_performance.py                                  both networks, about 15 minutes
    python bench/serving/release_performance.py --networks small --seconds 5     a quick look
    python bench/serving/release_performance.py --isa AVX512_CORE_VNNI           as on a CPU without AMX

For `small` (128 × 128) and ResNet-50 (224 × 224) with random weights: a Bento of the product, built, checked and served
by two workers, against the same network behind Flask (flask_server.py), once as `flask run`, once under gunicorn with
two workers. The input is one 512 × 512 slice as DICOM and as JPEG, and a series of 100 slices. `bare` is decoding,
preprocessing, graph and heat map in this process. Users are threads of this process (load_generator.py), on the same
cores.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the packages are beside bench/

import psutil

from bench.serving import load_generator
from bench.serving.servers_under_test import (
    SIZES,
    SLICES,
    TASK,
    build_release,
    create_network,
    desk_command,
    dicom_slices,
    flask_command,
    jpeg_slice,
    other_server,
    product_server,
    time_bare_inference,
    workers_mb,
)
from lineage import accounts, keys, paths
from lineage.record import database
from serving.bundle import bento_server

EMPTY_SERVICE = """
import bentoml

@bentoml.service(name="empty", workers=2)
class Empty:
    @bentoml.api
    def hello(self) -> str:
        return "hello"
"""


def measure(name: str, work: Path, options: argparse.Namespace, token: str) -> dict[str, Any]:
    """All figures of one network."""
    source = create_network(work / name, name)
    tag, folder = build_release(paths.home() / "releases" / name, source, name, options.precision)
    series_files, single_slice = dicom_slices(SLICES), dicom_slices(1)
    inputs_by_kind = {"dicom": single_slice, "jpeg": [("a.jpg", jpeg_slice())], "series": series_files}
    forms = {
        kind: load_generator.form(files, TASK, "/predict", bento_server.request_headers(token))
        for kind, files in inputs_by_kind.items()
    }
    environment = {"ONEDNN_MAX_CPU_ISA": options.isa} if options.isa else {}
    figures: dict[str, Any] = {}
    with product_server(tag, environment) as (url, process):
        for kind, files in inputs_by_kind.items():
            runs = 3 if kind == "series" else options.runs
            figures |= compare_in_turn(
                kind,
                lambda files=files, runs=runs: time_bare_inference(folder, files, runs),
                lambda kind=kind, runs=runs: load_generator.ask(url, forms[kind], 1, 0, runs).percentile(0.5),
            )
        command, address = desk_command(url, name)
        with other_server(command, f"{address}/healthz", {}, work):
            desk_request = load_generator.form(single_slice, TASK, "/api/predict", {"Authorization": f"Bearer {token}"})
            direct_seconds, desk_seconds = [], []
            for _ in range(3):
                direct_seconds.append(load_generator.ask(url, forms["dicom"], 1, 0, options.runs).percentile(0.5))
                desk_seconds.append(load_generator.ask(address, desk_request, 1, 0, options.runs).percentile(0.5))
            figures["front_ms"] = round(1000 * (statistics.median(desk_seconds) - statistics.median(direct_seconds)), 2)
        for kind in ("dicom", "jpeg"):
            figures[f"{kind}_per_second"] = round(
                load_generator.ask(url, forms[kind], 16, options.seconds).per_second, 1
            )
        figures["worker_mb"] = round(workers_mb(process))
        figures |= overload(url, forms["dicom"], process, options)
    for label, workers in (("flask", 0), ("gunicorn", 2)):
        command, address, flask_environment = flask_command(source, workers)
        with other_server(command, f"{address}/healthz", environment | flask_environment, work):
            for kind in ("dicom", "jpeg"):
                load_generator.ask(address, forms[kind], 2, 0, 2)
                if not workers:
                    figures[f"{label}_{kind}_p50_ms"] = round(
                        1000 * load_generator.ask(address, forms[kind], 1, 0, 8).percentile(0.5), 1
                    )
                flask_load = load_generator.ask(address, forms[kind], 16, options.seconds)
                figures[f"{label}_{kind}_per_second"] = round(flask_load.per_second, 2)
                figures[f"{label}_{kind}_ratio"] = round(figures[f"{kind}_per_second"] / flask_load.per_second, 1)
    return figures


def compare_in_turn(kind: str, time_bare: Callable[[], float], time_request: Callable[[], float]) -> dict[str, float]:
    """Median milliseconds of bare inference and of an answer over HTTP to one user, measured three times in turn."""
    pairs = [(time_bare(), time_request()) for _ in range(3)]
    bare_median, request_median = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    return {
        f"{kind}_bare_ms": round(1000 * bare_median, 2),
        f"{kind}_p50_ms": round(1000 * request_median, 2),
        f"{kind}_factor": round(request_median / bare_median, 2),
    }


def overload(url: str, request: bytes, process: psutil.Process, options: argparse.Namespace) -> dict[str, Any]:
    """Load with 64 users, then with far more than the server admits, then with one again."""
    mb_before = workers_mb(process)
    load_64 = load_generator.ask(url, request, 64, options.crowd)
    mb_after = workers_mb(process)
    load_400 = load_generator.ask(url, request, 400, min(5.0, options.crowd))
    load_after = load_generator.ask(url, request, 1, 0, 10)
    refused = sorted(load_400.refusals)
    return {
        "64_users": {
            "seconds": options.crowd,
            "answers": len(load_64.latencies),
            "statuses": load_64.statuses,
            "p50_ms": round(1000 * load_64.percentile(0.5)),
            "p99_ms": round(1000 * load_64.percentile(0.99)),
            "p99_over_p50": round(load_64.percentile(0.99) / load_64.percentile(0.5), 2),
            "mb_before": round(mb_before),
            "mb_after": round(mb_after),
        },
        "400_users": {
            "statuses": load_400.statuses,
            "refused_after_p50_ms": round(1000 * refused[len(refused) // 2]) if refused else None,
            "one_user_afterwards_p50_ms": round(1000 * load_after.percentile(0.5), 2),
            "statuses_afterwards": load_after.statuses,
        },
    }


def readiness(work: Path, tag: str, rounds: int) -> dict[str, float]:
    """Median seconds until the product's server and an empty BentoML service are ready, in turn."""

    (work / "empty_service.py").write_text(EMPTY_SERVICE)
    seconds: dict[str, list[float]] = {"product": [], "empty": []}
    for _ in range(rounds):
        port = bento_server.free_port()
        start = time.perf_counter()
        command = [sys.executable, "-m", "bentoml", "serve", "empty_service:Empty", "--port", str(port)]
        with other_server(command, f"http://127.0.0.1:{port}/readyz", bento_server.environment(), work):
            seconds["empty"].append(time.perf_counter() - start)
        start = time.perf_counter()
        server = bento_server.start(tag, workers=2)
        bento_server.wait_ready(server.url, 120, server)
        seconds["product"].append(time.perf_counter() - start)
        server.stop()
    medians = {f"ready_{name}_s": round(statistics.median(starts), 2) for name, starts in seconds.items()}
    return medians | {"ready_later_s": round(medians["ready_product_s"] - medians["ready_empty_s"], 2)}


def main() -> None:
    """Build, serve, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--isa", default="", help="the highest instruction set that oneDNN may use, such as AVX512_CORE_VNNI"
    )
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
        figures: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "isa": options.isa or "all"}
        for name in options.networks:
            sys.stderr.write(f"{name}\n")
            figures[name] = measure(name, Path(scratch), options, token)
        figures |= readiness(Path(scratch), f"oncoloop:{options.networks[0]}", options.rounds)
    lines = [f"{name}: {one}" for name, one in flatten(figures)]
    sys.stdout.write((json.dumps(figures) if options.json else "\n".join(lines)) + "\n")


def flatten(figures: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of every figure; names of nested figures are joined by spaces."""
    for name, value in figures.items():
        if isinstance(value, dict) and not all(isinstance(key, int) for key in value):
            yield from flatten(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value


if __name__ == "__main__":
    main()
