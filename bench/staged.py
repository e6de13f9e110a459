"""What the serving bench puts up: networks with weights by chance, a release of them, scans, and servers."""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from lineage.record import database

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"small": 128, "resnet50": 224}
SIDE, SLICES = 512, 100
TASK = "lung-ct"
MAKE = """
import sys
import dataclasses
from pathlib import Path
import keras
from pipelines import params
from training.network import model, onnx_export
folder, name, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
settings = dataclasses.replace(params.load(Path(sys.argv[4])).fit, backbone=name, weights="none")
keras.utils.set_random_seed(0)
network = model.build(settings, 3, size)
network.save(folder / "network.keras")
onnx_export._write_head(network, folder / "head.npz")
onnx_export._write_graph(network, folder / "graph.onnx")
"""


def made(folder: Path, name: str) -> Path:
    """The exported graph, the linear layer, the reference, and the same network for Keras."""
    from serving.inference import outlier
    from serving.inference.graph import Graph

    folder.mkdir(parents=True)
    run([sys.executable, "-c", MAKE, str(folder), name, str(SIZES[name]), str(ROOT)], {"PYTHONPATH": str(ROOT)})
    pixels = np.random.default_rng(0).random((8, SIZES[name], SIZES[name], 1), np.float32)
    outlier.save(folder / "reference.npz", Graph.load(folder / "graph.onnx").run(pixels)[1])
    return folder


def release(folder: Path, source: Path, name: str, precision: str) -> tuple[str, Path]:
    """A Bento of that network, as the product builds it."""
    from pipelines import params
    from serving.bundle import bento_build

    settings = params.load(ROOT)
    task = settings.tasks[TASK]
    facts = {
        "title": task.title,
        "modality": "CT",
        "organ": task.organ,
        "body_parts": list(task.body_parts),
        "classes": list(task.classes),
        "positive": list(task.positive),
        "unit": task.unit,
        "pixels": {"size": SIZES[name], "window": list(task.pixels.window or ())},
        "pooling": {"rule": "topk", "k": 3},
        "temperature": 1.0,
        "threshold": 0.5,
        "precision": precision,
        "outlier_distance": 1e9,
        "version": "1",
        "note": "weights by chance",
        "prevalence": 0.5,
        "conformal": None,
    }
    serving = {"engine": "openvino", "keep_scans": False, "abstain_below": 0.0, "max_upload_mb": 128}
    manifest = {"release": name, "created": database.now(), "tasks": {TASK: facts}, "serving": serving}
    warmups = [("warm-up.dcm", slices(1)[0][1], TASK)]
    built = bento_build.assemble(folder, manifest, {TASK: source}, warmups)
    return bento_build.build(built), built


def slices(count: int) -> list[tuple[str, bytes]]:
    """A series of phantom chest CT, enlarged to 512 × 512, as DICOM files."""
    import pydicom

    from data.phantom import files as phantom_files
    from data.phantom import study as phantom_study
    from pipelines import params

    task = params.load(ROOT).tasks[TASK]
    study = phantom_study.study(task, phantom_study.usual(task), 5, 0, task.positive[0])
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

    from data.scan.read import read

    values = read("a.dcm", slices(1)[0][1]).pixels[0]
    stream = io.BytesIO()
    Image.fromarray((np.clip((values + 1150) / 1500, 0, 1) * 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def bare(folder: Path, files: list[tuple[str, bytes]], runs: int) -> float:
    """Median seconds of decoding, preprocessing, graph and map, in this process."""
    from data.scan import preprocess, read
    from data.scan.series import series
    from serving.inference import heatmap
    from serving.inference.release import load_release

    model, seconds = load_release(folder).models[TASK], []
    for _ in range(runs + 2):
        begun = time.perf_counter()
        scans = [read.read(name, content) for name, content in files]
        scan = series(scans) if len(scans) > 1 else scans[0]
        _, features = model.graph.run(preprocess.scan_pixels(scan, model.pixels))
        heatmap.base64_png(heatmap.heat(features[0], model.kernel, 0))
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[2:])


@contextmanager
def served(tag: str, environment: dict[str, str]) -> Iterator[tuple[str, psutil.Process]]:
    """The product's server of a Bento, ready."""
    from serving.bundle import bento_server as products

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
        wait(url, 180, process)
        yield process
    finally:
        if process.is_running():
            for child in [*process.children(recursive=True), process]:
                child.kill()
        process.wait()


def wait(url: str, seconds: float, process: psutil.Popen) -> None:
    """Until an address answers 200; a server that has ended is not waited for."""
    import httpx

    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.02)
    raise SystemExit(f"{url} did not answer within {seconds:g} s, or its server ended")


def front(url: str, name: str) -> tuple[list[str], str]:
    """The command of the desk in front of that release, and its address."""
    from desk.traffic import traffic
    from serving.bundle.bento_server import free_port

    traffic.move(name, url, "system")
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "desk.app:create", "--port", str(port), "--no-access-log"]
    return [*command, "--app-dir", str(ROOT), "--log-level", "warning"], f"http://127.0.0.1:{port}"


def usual(source: Path, workers: int) -> tuple[list[str], str, dict[str, str]]:
    """The command of the usual way, its address and its environment; 0 workers is `flask run`."""
    from serving.bundle.bento_server import free_port

    port = free_port()
    environment = {"NETWORK": str(source / "network.keras"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    flask = ["-m", "flask", "--app", str(ROOT / "bench/usual.py"), "run", "--port", str(port)]
    gunicorn = ["-m", "gunicorn", "--workers", str(workers), "--timeout", "300", "--bind", f"127.0.0.1:{port}"]
    gunicorn += ["--pythonpath", str(ROOT / "bench"), "usual:app"]
    return [sys.executable, *(gunicorn if workers else flask)], f"http://127.0.0.1:{port}", environment


def workers_mb(process: psutil.Process) -> float:
    """The resident megabytes of the largest process of a server."""
    return max(child.memory_info().rss for child in process.children(recursive=True)) / 1e6


def run(command: list[str], environment: dict[str, str]) -> None:
    """A command that has to end well."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
