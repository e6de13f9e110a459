"""The endpoint: HTTP to `serving/inference/predict.py` and back. One worker process holds one release."""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import bentoml
from bentoml._internal import server
from bentoml._internal.utils import circus
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from lineage import keys, paths
from lineage.errors import Fault
from serving.http import connection, openapi
from serving.http.problem_details import Guard, problem
from serving.http.upload_form import Forms
from serving.inference.manifest import WARMUP, read_manifest
from serving.inference.request import Asker, Upload

if TYPE_CHECKING:
    from serving.inference.release import Release

FOLDER = Path(__file__).resolve().parents[2] / "release"  # where a Bento keeps it, beside this code
STATIC = [f"/static_content/{file.name}" for file in (Path(server.__file__).parent / "static_content").glob("*")]
LOOK_SECONDS = 1.0  # between two looks of the head process after its workers; BentoML lets ten go by
SYSTEM = ("/livez", "/healthz", "/readyz", "/metrics", "/schema.json")  # BentoML's own
PAGE = """<!doctype html><html lang="en"><title>Oncoloop</title>
<link rel="stylesheet" href="static_content/swagger-ui.css"><div id="swagger-ui"></div>
<script src="static_content/swagger-ui-bundle.js"></script>
<script src="static_content/swagger-ui-standalone-preset.js"></script>
<script src="static_content/swagger-initializer.js"></script></html>
"""


def limit_mb() -> float:
    """Megabytes that one request may send, from the release."""
    return float(read_manifest(FOLDER)["serving"]["max_upload_mb"])


@lru_cache(maxsize=1)
def release() -> "Release":
    """The release of this process, compiled once. What answers is imported here: the head process never does."""
    from serving.inference.release import load_release

    paths.set_environment()
    keys.key("pseudonym")  # without it no answer could be journalled: say so at the start
    return load_release(FOLDER)


def respond(uploads: Sequence[Upload], task: str, asker: Asker) -> JSONResponse:
    """The answer to one case, or the problem with it."""
    from serving.inference.answer import Withheld, answer

    try:
        return JSONResponse(answer(release(), uploads, task, asker))
    except Withheld as withheld:
        return problem(503, str(withheld), {"Retry-After": "5"})
    except Fault as fault:
        return problem(422, str(fault))


QUIET = {"access": {"enabled": False}}  # the journal says who asked what; a line of text for each would say it twice
UNTRACED = {"excluded_urls": "/predict"}  # a span for each piece of a body that arrives, handed to nobody


@bentoml.service(name="oncoloop", workers=2, threads=2, traffic={"timeout": 120}, logging=QUIET, tracing=UNTRACED)
class Oncoloop:
    """Answers for the tasks of one release. Research use only."""

    def __init__(self) -> None:
        """Ready with the release compiled and its warm-up scans answered: the first answers of a process are slow."""
        from lineage import accounts  # noqa: F401  the first request would wait for it
        from serving.inference import answer  # noqa: F401  and for this
        from serving.inference.predict import predict

        for entry in release().manifest[WARMUP]:
            scan = FOLDER / WARMUP / entry["file"]
            predict(release(), [Upload(scan.name, scan.read_bytes())], entry["task"])

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, files: list[Path], ctx: bentoml.Context, task: str = "") -> dict[str, Any]:
        """Answer one case: a file, a DICOM series, or several files of one patient. `task` may stay empty for DICOM.

        Its signature is what BentoML's client reads; what comes over HTTP is answered by `Forms` before it.
        """
        from serving.inference.answer import answer

        uploads = [Upload(file.name, file.read_bytes()) for file in files]
        return answer(release(), uploads, task, ctx.request.state.actor)


async def manifest(request: Request) -> JSONResponse:
    """GET /manifest: what this release is made of."""
    del request
    return JSONResponse(read_manifest(FOLDER))


async def described(request: Request) -> JSONResponse:
    """GET /docs.json: the OpenAPI page."""
    del request
    known = read_manifest(FOLDER)
    return JSONResponse(openapi.page(known["release"], sorted(known["tasks"])))


async def shown(request: Request) -> HTMLResponse:
    """GET /: that page for people. BentoML's own would tell its maker's statistics who looks at it."""
    del request
    return HTMLResponse(PAGE)


routes = [Route("/manifest", manifest), Route("/docs.json", described), Route("/", shown)]
cast(Any, Oncoloop).mount_asgi_app(Starlette(routes=routes), path="/", name="pages")
cast(Any, Oncoloop).add_asgi_middleware(Guard, limit_mb=limit_mb)
cast(Any, Oncoloop).add_asgi_middleware(Forms, respond=respond)
circus.create_standalone_arbiter = partial(circus.create_standalone_arbiter, check_delay=LOOK_SECONDS)
connection.install(["/predict", *(route.path for route in routes), *SYSTEM, *STATIC])
