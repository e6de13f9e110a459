"""What a release carries: nothing that trains or orchestrates, and the licences of all that is in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.bundle import bento_build, bento_server, licences
from serving.inference import release_integrity
from tests.conftest import ROOT
from tests.serving.conftest import dicom

pytestmark = pytest.mark.usefixtures("house")
FOREIGN = {
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


def test_a_process_that_has_answered_holds_nothing_foreign(bento: tuple[str, Path], tmp_path: Path) -> None:
    """The packaged code itself, after an answer and a refusal, so that nothing is brought in late."""
    (tmp_path / "a.dcm").write_bytes(dicom(True))
    script = (
        "import sys; sys.path[:] = [sys.argv[1], *(path for path in sys.path if 'site-packages' in path or path[-4:] "
        "in ('.zip', '3.11', '3.12', '3.13', 'load'))]\n"
        "from pathlib import Path\n"
        "from serving.http import service; from serving.inference import answer, uploaded_scans\n"
        "given = [uploaded_scans.Upload('a.dcm', Path(sys.argv[2]).read_bytes())]\n"
        "for files, status in ((given, 200), ([uploaded_scans.Upload('junk', b'x')], 422)):\n"
        "    assert service.respond(files, 'tiny-mr', answer.Asker('eve')).status_code == status\n"
        "assert service.__file__.startswith(sys.argv[1])\n"
        "print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    source = release_integrity.bento_folder(bento[0]) / "src"
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "a.dcm")]
    ran = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=bento_server.environment(), check=False
    )
    assert ran.returncode == 0, ran.stderr
    loaded = set(ran.stdout.split())
    assert {"serving", "openvino", "bentoml", "pydicom"} <= loaded and not loaded & FOREIGN, loaded & FOREIGN


def test_a_release_names_the_licence_of_all_that_it_is_run_with(bento: tuple[str, Path]) -> None:
    told = (release_integrity.bento_folder(bento[0]) / "src" / bento_build.LICENCES).read_text()
    lock = ROOT / "serving" / bento_build.LOCK
    pins = licences.PIN.findall(lock.read_text())
    assert len(pins) > 50
    for name, version in pins:
        assert f"\n{name} {version}" in told
    assert licences.UNSAID not in told
    assert "Licence: Apache" in told and "Permission is hereby granted, free of charge" in told
    assert "tensorflow" not in {name for name, _ in pins}


def test_a_package_that_is_not_here_is_named_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "x.lock").write_text("no-such-thing==1.2 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n")
    assert "no-such-thing 1.2\nnot needed" in licences.text(tmp_path / "x.lock")
