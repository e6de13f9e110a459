"""Networks with random weights, a release of them, scans, and servers, for release_performance.py."""

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

from lineage.record import database, ledger
from lineage.record.events import EventKind

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"small": 128, "resnet50": 224}
SIDE, SLICES = 512, 100
TASK = "lung-ct"
EXPORT_SCRIPT = """
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


def create_network(folder: Path, name: str) -> Path:
    """Write the exported graph, the linear layer, the outlier reference, and the same network for Keras."""
    from serving.inference import outlier
    from serving.inference.graph import Graph

    folder.mkdir(parents=True)
    run_command(
        [sys.executable, "-c", EXPORT_SCRIPT, str(folder), name, str(SIZES[name]), str(ROOT)], {"PYTHONPATH": str(ROOT)}
    )
    pixels = np.random.default_rng(0).random((8, SIZES[name], SIZES[name], 1), np.float32)
    outlier.save(folder / "reference.npz", Graph.load(folder / "graph.onnx").run(pixels)[1])
    return folder


def build_release(folder: Path, source: Path, name: str, precision: str) -> tuple[str, Path]:
    """Build a Bento of this network as the product does; its tag and folder."""
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
        "note": "random weights",
        "prevalence": 0.5,
        "conformal": None,
    }
    serving = {"engine": "openvino", "abstain_below": 0.0, "max_upload_mb": 128}
    manifest = {"release": name, "created": database.now(), "tasks": {TASK: facts}, "serving": serving}
    warmups = [("warm-up.dcm", dicom_slices(1)[0][1], TASK)]
    bundle = bento_build.assemble(folder, manifest, {TASK: source}, warmups)
    return bento_build.build(bundle), bundle


def dicom_slices(count: int) -> list[tuple[str, bytes]]:
    """A series of phantom chest CT slices, enlarged to 512 × 512, as DICOM files."""
    import pydicom

    from data.phantom import files as phantom_files
    from data.phantom import study as phantom_study
    from pipelines import params

    task = params.load(ROOT).tasks[TASK]
    study = phantom_study.make_study(task, phantom_study.usual_scanner(task), 5, 0, task.positive[0])
    files = []
    for number in range(count):
        pixels, spacing = study.slice(number, count)
        image = pydicom.dcmread(io.BytesIO(phantom_files.dicom(study, pixels, spacing, number)))
        enlarged = np.kron(image.pixel_array, np.ones((SIDE // image.Rows,) * 2, image.pixel_array.dtype))
        image.PixelData, (image.Rows, image.Columns) = enlarged.tobytes(), enlarged.shape
        stream = io.BytesIO()
        image.save_as(stream)
        files.append((f"{number:03d}.dcm", stream.getvalue()))
    return files


def jpeg_slice() -> bytes:
    """The first slice in the task's window, as JPEG."""
    from PIL import Image

    from data.scan.read import read_scan

    values = read_scan("a.dcm", dicom_slices(1)[0][1]).pixels[0]
    stream = io.BytesIO()
    Image.fromarray((np.clip((values + 1150) / 1500, 0, 1) * 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def time_bare_inference(folder: Path, files: list[tuple[str, bytes]], runs: int) -> float:
    """Median seconds of decoding, preprocessing, graph and heat map in this process."""
    from data.scan import preprocess, read
    from data.scan.series import join_series
    from serving.inference import heatmap
    from serving.inference.release import load_release

    model, seconds = load_release(folder).models[TASK], []
    for _ in range(runs + 2):
        start = time.perf_counter()
        scans = [read.read_scan(name, content) for name, content in files]
        scan = join_series(scans) if len(scans) > 1 else scans[0]
        _, features = model.graph.run(preprocess.scan_pixels(scan, model.pixels))
        heatmap.base64_png(heatmap.class_activation_map(features[0], model.kernel, 0))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


@contextmanager
def product_server(tag: str, environment: dict[str, str]) -> Iterator[tuple[str, psutil.Process]]:
    """Run the product's server of a Bento; yields its address and process when it is ready."""
    from serving.bundle import bento_server

    os.environ |= environment
    server = bento_server.start(tag, workers=2)
    for name in environment:
        del os.environ[name]
    try:
        bento_server.wait_ready(server.url, 120, server)
        yield server.url, psutil.Process(server.process.pid)
    finally:
        server.stop()


@contextmanager
def other_server(command: list[str], url: str, environment: dict[str, str], folder: Path) -> Iterator[psutil.Process]:
    """Run any other server; yields its process when `url` answers."""
    with (folder / "server.log").open("ab") as log:
        process = psutil.Popen(command, env=os.environ | environment, stdout=log, stderr=log, cwd=folder)
    try:
        wait_until_ready(url, 180, process)
        yield process
    finally:
        if process.is_running():
            for child in [*process.children(recursive=True), process]:
                child.kill()
        process.wait()


def wait_until_ready(url: str, seconds: float, process: psutil.Popen) -> None:
    """Wait until an address answers 200; exit if the server has ended or the time is up."""
    import httpx

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.02)
    raise SystemExit(f"{url} did not answer within {seconds:g} s, or its server ended")


def desk_command(url: str, name: str) -> tuple[list[str], str]:
    """The command of the desk as proxy before the release, and its address."""
    from serving.bundle.bento_server import free_port

    ledger.append(EventKind.RELEASE_ACTIVATED, name, {"url": url})
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "desk.app:create", "--port", str(port), "--no-access-log"]
    return [*command, "--app-dir", str(ROOT), "--log-level", "warning"], f"http://127.0.0.1:{port}"


def flask_command(source: Path, workers: int) -> tuple[list[str], str, dict[str, str]]:
    """The command of the Flask server, its address and environment; 0 workers is `flask run`."""
    from serving.bundle.bento_server import free_port

    port = free_port()
    environment = {"NETWORK": str(source / "network.keras"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    flask = ["-m", "flask", "--app", str(ROOT / "bench/serving/flask_server.py"), "run", "--port", str(port)]
    gunicorn = ["-m", "gunicorn", "--workers", str(workers), "--timeout", "300", "--bind", f"127.0.0.1:{port}"]
    gunicorn += ["--pythonpath", str(ROOT / "bench" / "serving"), "flask_server:app"]
    return [sys.executable, *(gunicorn if workers else flask)], f"http://127.0.0.1:{port}", environment


def workers_mb(process: psutil.Process) -> float:
    """Resident megabytes of the largest child process of a server."""
    return max(child.memory_info().rss for child in process.children(recursive=True)) / 1e6


def run_command(command: list[str], environment: dict[str, str]) -> None:
    """Run a command; exit with its error output if it fails."""
    process = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(process.stderr[-2000:])
