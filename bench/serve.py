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
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a bench reads the rooms beside it

import numpy as np
import psutil

from bench import load
from lineage import keys, people, places, store

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"small": 128, "resnet50": 224}
SIDE, SLICES = 512, 100
TASK = "lung-ct"
EMPTY = """
import bentoml

@bentoml.service(name="empty", workers=2)
class Empty:
    @bentoml.api
    def hello(self) -> str:
        return "hello"
"""
MAKE = """
import sys
import dataclasses
from pathlib import Path
import keras
from pipelines import params
from training import export, model
folder, name, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
settings = dataclasses.replace(params.load(Path(sys.argv[4])).fit, backbone=name, weights="none")
keras.utils.set_random_seed(0)
network = model.build(settings, 3, size)
network.save(folder / "network.keras")
export._write_head(network, folder / "head.npz")
export._write_graph(network, folder / "graph.onnx")
"""


def made(folder: Path, name: str) -> Path:
    """The exported graph, the linear layer, the reference, and the same network for Keras."""
    from serving import outlier
    from serving.graph import Graph

    folder.mkdir(parents=True)
    run([sys.executable, "-c", MAKE, str(folder), name, str(SIZES[name]), str(ROOT)], {"PYTHONPATH": str(ROOT)})
    pixels = np.random.default_rng(0).random((8, SIZES[name], SIZES[name], 1), np.float32)
    outlier.save(folder / "reference.npz", Graph.load(folder / "graph.onnx").run(pixels)[1])
    return folder


def release(folder: Path, source: Path, name: str, precision: str) -> tuple[str, Path]:
    """A Bento of that network, as the product builds it."""
    from pipelines import params
    from serving import bundle

    settings = params.load(ROOT)
    task = settings.tasks[TASK]
    facts = {
        "title": task.title, "modality": "CT", "organ": task.organ, "body_parts": list(task.body_parts),
        "classes": list(task.classes), "positive": list(task.positive), "unit": task.unit,
        "pixels": {"size": SIZES[name], "window": list(task.pixels.window or ())}, "pooling": {"rule": "topk", "k": 3},
        "temperature": 1.0, "threshold": 0.5, "precision": precision, "outlier_distance": 1e9, "version": "1",
        "note": "weights by chance", "prevalence": 0.5, "conformal": None,
    }  # fmt: skip
    serving = {"engine": "openvino", "keep_scans": False, "abstain_below": 0.0, "max_upload_mb": 128}
    manifest = {"release": name, "created": store.now(), "tasks": {TASK: facts}, "serving": serving}
    warmups = [("warm-up.dcm", slices(1)[0][1], TASK)]
    built = bundle.assemble(folder, manifest, {TASK: source}, warmups)
    return bundle.build(built), built


def slices(count: int) -> list[tuple[str, bytes]]:
    """A series of phantom chest CT, enlarged to 512 × 512, as DICOM files."""
    import pydicom

    from data import phantom, phantom_files
    from pipelines import params

    task = params.load(ROOT).tasks[TASK]
    study = phantom.study(task, phantom.usual(task), 5, 0, task.positive[0])
    files = []
    for number in range(count):
        pixels, pixel = study.slice(number, count)
        image = pydicom.dcmread(io.BytesIO(phantom_files.dicom(study, pixels, pixel, number)))
        large = np.kron(image.pixel_array, np.ones((SIDE // image.Rows,) * 2, image.pixel_array.dtype))
        image.PixelData, (image.Rows, image.Columns) = large.tobytes(), large.shape
        stream = io.BytesIO()
        image.save_as(stream)
        files.append((f"{number:03d}.dcm", stream.getvalue()))
    return files


def picture() -> bytes:
    """The first slice through the task's window, as JPEG."""
    from PIL import Image

    from data.read import read

    values = read("a.dcm", slices(1)[0][1]).pixels[0]
    stream = io.BytesIO()
    Image.fromarray((np.clip((values + 1150) / 1500, 0, 1) * 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def bare(folder: Path, files: list[tuple[str, bytes]], runs: int) -> float:
    """Median seconds of decoding, preprocessing, graph and map, in this process."""
    from data import pixels, read
    from data.series import series
    from serving import explain
    from serving.release import load_release

    model, seconds = load_release(folder).models[TASK], []
    for _ in range(runs + 2):
        begun = time.perf_counter()
        scans = [read.read(name, content) for name, content in files]
        scan = series(scans) if len(scans) > 1 else scans[0]
        _, features = model.graph.run(pixels.scan_pixels(scan, model.pixels))
        explain.base64_png(explain.heat(features[0], model.kernel, 0))
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[2:])


@contextmanager
def served(tag: str, environment: dict[str, str]) -> Iterator[tuple[str, psutil.Process]]:
    """The product's server of a Bento, ready."""
    from serving import served as products

    os.environ |= environment
    server = products.start(tag, workers=2)
    for name in environment:
        del os.environ[name]
    try:
        products.wait_ready(server.url, 120, server)
        yield server.url, psutil.Process(server.process.pid)
    finally:
        server.stop()


@contextmanager
def started(command: list[str], url: str, environment: dict[str, str], folder: Path) -> Iterator[psutil.Process]:
    """Any other server, until `url` answers."""
    with (folder / "server.log").open("ab") as log:
        process = psutil.Popen(command, env=os.environ | environment, stdout=log, stderr=log, cwd=folder)
    try:
        wait(url, 180)
        yield process
    finally:
        for child in [*process.children(recursive=True), process]:
            child.kill()
        process.wait()


def wait(url: str, seconds: float) -> None:
    """Until an address answers 200."""
    import httpx

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.02)
    raise SystemExit(f"{url} did not answer within {seconds:g} s")


def front(url: str, name: str) -> tuple[list[str], str]:
    """The command of the desk in front of that release, and its address."""
    from desk import traffic
    from serving.served import free_port

    traffic.move(name, url, "system")
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "desk.app:create", "--port", str(port), "--no-access-log"]
    return [*command, "--app-dir", str(ROOT), "--log-level", "warning"], f"http://127.0.0.1:{port}"


def usual(source: Path, workers: int) -> tuple[list[str], str, dict[str, str]]:
    """The command of the usual way, its address and its environment; 0 workers is `flask run`."""
    from serving.served import free_port

    port = free_port()
    environment = {"NETWORK": str(source / "network.keras"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    flask = ["-m", "flask", "--app", str(ROOT / "bench/usual.py"), "run", "--port", str(port)]
    gunicorn = ["-m", "gunicorn", "--workers", str(workers), "--timeout", "300", "--bind", f"127.0.0.1:{port}"]
    gunicorn += ["--pythonpath", str(ROOT / "bench"), "usual:app"]
    return [sys.executable, *(gunicorn if workers else flask)], f"http://127.0.0.1:{port}", environment


def workers_mb(process: psutil.Process) -> float:
    """The resident megabytes of the largest process of a server."""
    return max(child.memory_info().rss for child in process.children(recursive=True)) / 1e6


def measure(name: str, work: Path, options: argparse.Namespace, token: str) -> dict[str, Any]:
    """Everything of one network."""
    source = made(work / name, name)
    tag, folder = release(places.home() / "releases" / name, source, name, options.precision)
    series_files, one = slices(SLICES), slices(1)
    kinds = {"dicom": one, "jpeg": [("a.jpg", picture())], "series": series_files}
    forms = {kind: load.form(files, TASK, "/predict", token) for kind, files in kinds.items()}
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
        f"{kind}_bare_ms": round(1000 * alone, 2), f"{kind}_p50_ms": round(1000 * answer, 2),
        f"{kind}_factor": round(answer / alone, 2),
    }  # fmt: skip


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
            "seconds": options.crowd, "answers": len(many.latencies), "statuses": many.statuses,
            "p50_ms": round(1000 * many.percentile(0.5)), "p99_ms": round(1000 * many.percentile(0.99)),
            "p99_over_p50": round(many.percentile(0.99) / many.percentile(0.5), 2),
            "mb_before": round(before), "mb_after": round(after),
        },
        "400_users": {
            "statuses": flood.statuses,
            "refused_after_p50_ms": round(1000 * refused[len(refused) // 2]) if refused else None,
            "one_user_afterwards_p50_ms": round(1000 * again.percentile(0.5), 2), "statuses_afterwards": again.statuses,
        },
    }  # fmt: skip


def readiness(work: Path, tag: str, rounds: int) -> dict[str, float]:
    """Median seconds until the product's server and an empty BentoML service are ready, in turn."""
    from serving import served as products

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


def run(command: list[str], environment: dict[str, str]) -> None:
    """A command that has to end well."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])


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
        os.environ |= places.environment()
        keys.create()
        store.migrate()
        people.add("bench", "clinician")
        token = people.issue("bench", "predict", 1)
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
