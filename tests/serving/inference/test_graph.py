from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lineage.errors import Fault
from serving.inference.graph import CHUNK, Graph, cpu_flags
from tests.serving.conftest import BIAS, KERNEL, batch, write_graph


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_both_engines_agree_with_numpy(tiny: Path, engine: str) -> None:
    pixels = batch(True, False, True)
    blocks = pixels[..., 0].reshape(3, 8, 4, 8, 4).mean(axis=(2, 4))
    expected = np.maximum(np.stack([blocks - 0.7, 0.3 - blocks], axis=-1), 0)

    logits, features = Graph.load(tiny / "graph.onnx", engine).run(pixels)

    assert features.dtype == logits.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5)
    np.testing.assert_allclose(logits, expected.mean(axis=(1, 2)) @ KERNEL + BIAS, atol=1e-5)


def test_an_output_does_not_depend_on_the_other_images_of_a_chunk(tiny: Path) -> None:
    graph = Graph.load(tiny / "graph.onnx")
    many = np.repeat(batch(True, False), CHUNK, axis=0)
    logits, features = graph.run(many)
    alone, maps = graph.run(many[:1])
    assert len(logits) == len(features) == 2 * CHUNK
    assert np.array_equal(logits[0], alone[0]) and np.array_equal(features[0], maps[0])


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_threads_do_not_mix_their_outputs(tiny: Path, engine: str) -> None:
    graph = Graph.load(tiny / "graph.onnx", engine)
    pixels = {True: batch(True), False: batch(False)}
    expected = {bright: graph.run(pixels[bright])[0] for bright in pixels}
    mismatches: list[bool] = []

    def ask(bright: bool) -> None:
        mismatches.extend(
            bright for _ in range(200) if not np.array_equal(graph.run(pixels[bright])[0], expected[bright])
        )

    threads = [threading.Thread(target=ask, args=(bright,)) for bright in (True, False) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mismatches


TWO_FIRST_INFERENCES = """
import sys, threading
import numpy as np
from pathlib import Path
from serving.inference.graph import Graph
graph, together = Graph.load(Path(sys.argv[1])), threading.Barrier(2)
sys.setswitchinterval(1e-6)

def ask():
    together.wait()
    graph.run(np.zeros((1, graph.size, graph.size, 1), np.float32))

threads = [threading.Thread(target=ask) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_the_first_two_inferences_of_a_process_do_not_deadlock(tiny: Path) -> None:
    """Without a first run of each request, one process in three never ended, not even its main thread."""
    for _ in range(5):
        subprocess.run([sys.executable, "-c", TWO_FIRST_INFERENCES, str(tiny / "graph.onnx")], timeout=60, check=True)


def test_outputs_do_not_change_during_the_next_inference(tiny: Path) -> None:
    graph = Graph.load(tiny / "graph.onnx")
    logits, features = graph.run(batch(True))
    copies = logits.copy(), features.copy()
    graph.run(batch(False))
    assert np.array_equal(logits, copies[0]) and np.array_equal(features, copies[1])


def test_facts_name_engine_precision_and_cpu(tiny: Path) -> None:
    facts = Graph.load(tiny / "graph.onnx").facts()
    assert facts["engine"] == "openvino" and facts["precision"] == "float32"
    assert facts["version"].startswith("20") and facts["cpu"] == list(cpu_flags())


def test_bfloat16_is_close_to_float32_and_onnxruntime_reports_float32(tiny: Path) -> None:
    exact, _ = Graph.load(tiny / "graph.onnx").run(batch(True, False))
    rough = Graph.load(tiny / "graph.onnx", "openvino", "bfloat16")
    np.testing.assert_allclose(rough.run(batch(True, False))[0], exact, atol=0.05)
    expected = "bfloat16" if {"amx_bf16", "avx512_bf16"} & set(cpu_flags()) else rough.precision
    assert rough.facts()["precision"] == expected
    assert Graph.load(tiny / "graph.onnx", "onnxruntime", "bfloat16").facts()["precision"] == "float32"


def test_float32_runs_if_the_instructions_for_bfloat16_are_forbidden(tiny: Path) -> None:
    """In its own process, because the libraries read the variable only once."""
    code = (
        "import sys; from pathlib import Path; import numpy as np; from serving.inference.graph import Graph\n"
        "graph = Graph.load(Path(sys.argv[1]), 'openvino', 'bfloat16')\n"
        "graph.run(np.zeros((70, 32, 32, 1), np.float32))\n"
        "print(graph.precision)"
    )
    command = [sys.executable, "-c", code, str(tiny / "graph.onnx")]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout.strip()) == (0, "float32"), process.stderr


def test_cpu_flags_are_empty_if_the_system_does_not_list_them(tmp_path: Path) -> None:
    assert cpu_flags(tmp_path / "absent") == ()
    (tmp_path / "cpuinfo").write_text("model name\t: x\nflags\t\t: fpu avx2 amx_bf16 sse\n")
    assert cpu_flags(tmp_path / "cpuinfo") == ("amx_bf16", "avx2")


@pytest.mark.parametrize(
    ("engine", "precision", "setting"), [("torch", "float32", "serving.engine"), ("openvino", "int4", "precision")]
)
def test_unknown_settings_are_named(tiny: Path, engine: str, precision: str, setting: str) -> None:
    with pytest.raises(Fault, match=setting):
        Graph.load(tiny / "graph.onnx", engine, precision)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_file_that_is_not_a_graph_is_refused(tmp_path: Path, engine: str) -> None:
    with pytest.raises(Fault, match="no exported graph"):
        Graph.load(tmp_path / "absent.onnx", engine)
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(Fault, match=r"bad\.onnx: .* cannot run this graph"):
        Graph.load(tmp_path / "bad.onnx", engine)


def test_a_graph_with_other_outputs_is_refused(tmp_path: Path) -> None:
    import onnx

    model = onnx.load(write_graph(tmp_path))
    del model.graph.output[1]
    onnx.save(model, tmp_path / "graph.onnx")
    with pytest.raises(Fault, match="features"):
        Graph.load(tmp_path / "graph.onnx")


def test_pixels_of_another_shape_are_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"\(n, 32, 32, 1\)"):
        Graph.load(tiny / "graph.onnx").run(np.zeros((1, 16, 16, 1), np.float32))


def test_loading_and_running_writes_nothing_to_the_home_folder(tiny: Path, tmp_path: Path) -> None:
    script = (
        "import sys, numpy; from pathlib import Path; from serving.inference.graph import Graph\n"
        "for engine in ('openvino', 'onnxruntime'):\n"
        "    Graph.load(Path(sys.argv[1]), engine).run(numpy.zeros((1, 32, 32, 1), numpy.float32))\n"
    )
    (tmp_path / "home").mkdir()
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", script, str(tiny / "graph.onnx")]
    subprocess.run(command, env=environment, cwd=tmp_path / "home", check=True, timeout=60)
    assert list((tmp_path / "home").rglob("*")) == []
