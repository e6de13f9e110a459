from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lineage.errors import Fault
from lineage.fingerprint import file_sha256, hash_folder
from serving.bundle import bento_build
from serving.inference import release_integrity
from serving.inference.manifest import read_manifest
from serving.inference.release import load_release
from tests.conftest import ROOT
from tests.serving.conftest import dicom, facts, manifest, write_graph

WARMUP = ("a.dcm", dicom(True), "tiny-mr")


@pytest.mark.usefixtures("home")
def test_a_release_contains_its_files_and_the_expected_answers(tiny: Path, tmp_path: Path) -> None:
    folder = bento_build.assemble(tmp_path / "r1", manifest(), {"tiny-mr": tiny}, [WARMUP])
    assert set(hash_folder(folder)) == {
        "manifest.json",
        "warmup/00-a.dcm",
        "tiny-mr/graph.onnx",
        "tiny-mr/head.npz",
        "tiny-mr/reference.npz",
    }
    entry = read_manifest(folder)["warmup"][0]
    assert (entry["file"], entry["task"], entry["answer"]) == ("00-a.dcm", "tiny-mr", "tumour")
    assert sum(entry["probabilities"].values()) == pytest.approx(1) and 0 < entry["tolerance"] < 0.01
    assert len(read_manifest(folder)["code"]) == 64
    assert list(load_release(folder).models) == ["tiny-mr"]


@pytest.mark.usefixtures("home")
def test_the_same_release_again_is_unchanged_and_a_different_one_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = bento_build.assemble(tmp_path / "r1", manifest(), {"tiny-mr": tiny}, [WARMUP])
    before = hash_folder(folder)
    later = manifest() | {"created": "2027-01-01T00:00:00Z"}
    assert bento_build.assemble(folder, later, {"tiny-mr": tiny}, [WARMUP]) == folder and hash_folder(folder) == before
    different = manifest(**{"tiny-mr": facts(threshold=0.9)})
    with pytest.raises(Fault, match="holds another release of this name"):
        bento_build.assemble(folder, different, {"tiny-mr": tiny})


@pytest.mark.usefixtures("home")
def test_an_incomplete_release_is_not_written(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny, source)
    (source / "head.npz").unlink()
    with pytest.raises(Fault, match=r"head\.npz is missing"):
        bento_build.assemble(tmp_path / "releases" / "r1", manifest(), {"tiny-mr": source})
    with pytest.raises(Fault, match=r"x\.dcm"):
        bento_build.assemble(
            tmp_path / "releases" / "r1", manifest(), {"tiny-mr": tiny}, [("x.dcm", b"junk", "tiny-mr")]
        )
    assert list((tmp_path / "releases").iterdir()) == []


@pytest.mark.usefixtures("home")
def test_only_the_approved_graph_is_released(tiny: Path, tmp_path: Path) -> None:
    approved = facts(hashes={"graph": file_sha256(tiny / "graph.onnx")})
    bento_build.assemble(tmp_path / "r1", manifest(**{"tiny-mr": approved}), {"tiny-mr": tiny})
    with pytest.raises(Fault, match="is not the approved graph"):
        bento_build.assemble(
            tmp_path / "r2", manifest(**{"tiny-mr": facts(hashes={"graph": "0" * 64})}), {"tiny-mr": tiny}
        )


@pytest.mark.usefixtures("home")
def test_a_manifest_without_a_required_key_is_refused(tiny: Path, tmp_path: Path) -> None:
    incomplete = facts()
    del incomplete["temperature"]
    with pytest.raises(Fault, match=r"lacks tasks\.tiny-mr\.temperature"):
        bento_build.assemble(tmp_path / "r1", manifest(**{"tiny-mr": incomplete}), {"tiny-mr": tiny})
    with pytest.raises(Fault, match=r"tasks \['tiny-mr'\], but the files are for \['other'\]"):
        bento_build.assemble(tmp_path / "r1", manifest(), {"other": tiny})
    with pytest.raises(Fault, match="there is no manifest"):
        read_manifest(tmp_path)


@pytest.mark.usefixtures("home")
def test_a_graph_with_other_classes_than_the_manifest_is_refused(tmp_path: Path, tiny: Path) -> None:
    write_graph(tmp_path / "three", np.zeros((2, 3), np.float32), bias=np.zeros(3, np.float32))
    shutil.copyfile(tiny / "reference.npz", tmp_path / "three" / "reference.npz")
    with pytest.raises(Fault, match="3 classes at 32 pixels"):
        bento_build.assemble(tmp_path / "r1", manifest(), {"tiny-mr": tmp_path / "three"})


def test_the_release_has_its_own_small_lock() -> None:
    lock = (ROOT / "serving" / bento_build.LOCK).read_text()
    names = {line.split("==")[0] for line in lock.splitlines() if line[:1].isalpha()}
    assert {"bentoml", "openvino", "onnxruntime", "pydicom", "sqlalchemy", "numpy"} <= names
    assert not names & {"tensorflow", "keras", "mlflow", "prefect", "great-expectations", "evidently", "dvc"}
    assert "--hash=sha256:" in lock and "://" not in lock
    platform = (ROOT / "requirements.lock").read_text()
    pins = [line.split(" ")[0] for line in lock.splitlines() if line[:1].isalpha()]
    assert [pin for pin in pins if f"{pin} " not in platform] == []


@pytest.mark.usefixtures("served_home")
def test_a_second_build_returns_the_same_bento_and_refuses_a_changed_release(
    bento: tuple[str, Path], tmp_path: Path
) -> None:
    tag, folder = bento
    before = hash_folder(release_integrity.bento_folder(tag))
    assert bento_build.build(folder) == tag and hash_folder(release_integrity.bento_folder(tag)) == before
    shutil.copytree(folder, tmp_path / "changed")
    (tmp_path / "changed" / "manifest.json").write_text(json.dumps(read_manifest(folder) | {"note": "other"}))
    with pytest.raises(Fault, match="holds another release"):
        bento_build.build(tmp_path / "changed")


def test_a_bento_contains_only_three_packages(bento: tuple[str, Path]) -> None:
    source = release_integrity.bento_folder(bento[0]) / "src"
    assert {path.name for path in source.iterdir() if path.is_dir()} == {"data", "lineage", "serving", "release"}
    assert hash_folder(source / "release") == hash_folder(bento[1])
    dockerfile = (release_integrity.bento_folder(bento[0]) / "env" / "docker" / "Dockerfile").read_text()
    requirements = (release_integrity.bento_folder(bento[0]) / "env" / "python" / "requirements.txt").read_text()
    assert "openvino==" in requirements
    for vendor in ("tensorflow", "keras", "mlflow", "prefect", "evidently", "great"):
        assert vendor not in requirements and vendor not in dockerfile
