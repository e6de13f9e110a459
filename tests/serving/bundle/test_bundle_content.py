"""The contents of a release: no training or orchestration packages, and the licences of all its packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.bundle import bento_build, bento_server, licences
from serving.inference import release_integrity
from tests.conftest import ROOT
from tests.serving.conftest import dicom

pytestmark = pytest.mark.usefixtures("served_home")
FORBIDDEN_PACKAGES = {
    "tensorflow",
    "keras",
    "jax",
    "torch",
    "mlflow",
    "prefect",
    "great_expectations",
    "evidently",
    "dvc",
    "training",
    "monitoring",
    "pipelines",
    "desk",
}


def test_a_worker_loads_no_training_or_orchestration_package(bento: tuple[str, Path], tmp_path: Path) -> None:
    """With the packaged code, after an answer and a refusal, so that late imports are included."""
    (tmp_path / "a.dcm").write_bytes(dicom(True))
    script = (
        "import sys; sys.path[:] = [sys.argv[1], *(path for path in sys.path if 'site-packages' in path or path[-4:] "
        "in ('.zip', '3.11', '3.12', '3.13', 'load'))]\n"
        "from pathlib import Path\n"
        "from serving.http import service; from serving.inference import answer, uploaded_scans\n"
        "scan = [uploaded_scans.Upload('a.dcm', Path(sys.argv[2]).read_bytes())]\n"
        "for files, status in ((scan, 200), ([uploaded_scans.Upload('junk', b'x')], 422)):\n"
        "    assert service.respond(files, 'tiny-mr', answer.Requester('eve')).status_code == status\n"
        "assert service.__file__.startswith(sys.argv[1])\n"
        "print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    source = release_integrity.bento_folder(bento[0]) / "src"
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "a.dcm")]
    process = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=bento_server.environment(), check=False
    )
    assert process.returncode == 0, process.stderr
    loaded = set(process.stdout.split())
    assert {"serving", "openvino", "bentoml", "pydicom"} <= loaded and not loaded & FORBIDDEN_PACKAGES, (
        loaded & FORBIDDEN_PACKAGES
    )


def test_a_release_lists_the_licence_of_every_package(bento: tuple[str, Path]) -> None:
    licence_text = (release_integrity.bento_folder(bento[0]) / "src" / bento_build.LICENCES).read_text()
    lock = ROOT / "serving" / bento_build.LOCK
    pins = licences.PIN.findall(lock.read_text())
    assert len(pins) > 50
    for name, version in pins:
        assert f"\n{name} {version}" in licence_text
    assert licences.UNKNOWN_LICENCE not in licence_text
    assert "Licence: Apache" in licence_text and "Permission is hereby granted, free of charge" in licence_text
    assert "tensorflow" not in {name for name, _ in pins}


def test_a_package_that_is_not_installed_is_listed_too(tmp_path: Path) -> None:
    (tmp_path / "x.lock").write_text("no-such-thing==1.2 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n")
    assert "no-such-thing 1.2\nnot needed" in licences.text(tmp_path / "x.lock")
