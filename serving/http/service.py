"""The endpoint: HTTP requests to `serving/inference/answer.py`. One worker process loads one release."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import bentoml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from lineage import keys, paths
from lineage.errors import Fault
from serving.http import openapi
from serving.http.problem_details import problem
from serving.http.request_guard import PathFilter, RequestGuard
from serving.http.upload_form import UploadForms
from serving.inference.manifest import WARMUP, read_manifest
from serving.inference.request import Requester, Upload

if TYPE_CHECKING:
    from serving.inference.release import Release

FOLDER = Path(__file__).resolve().parents[2] / "release"  # the release's place in a Bento, beside this code
SYSTEM_PATHS = ("/livez", "/healthz", "/readyz", "/metrics", "/schema.json")  # routes of BentoML
PAGE_FILES = (  # of the page below, which BentoML serves too
    "swagger-ui.css",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-initializer.js",
)
PAGE = """<!doctype html><html lang="en"><title>Oncoloop</title>
<link rel="stylesheet" href="static_content/swagger-ui.css"><div id="swagger-ui"></div>
<script src="static_content/swagger-ui-bundle.js"></script>
<script src="static_content/swagger-ui-standalone-preset.js"></script>
<script src="static_content/swagger-initializer.js"></script></html>
"""


def limit_mb() -> float:
    """The megabytes that one request may send, from the release's manifest."""
    return float(read_manifest(FOLDER)["serving"]["max_upload_mb"])


@lru_cache(maxsize=1)
def release() -> "Release":
    """The release of this process, compiled once. The imports are inside, because the head process needs none."""
    from serving.inference.release import load_release

    paths.set_environment()
    for purpose in ("pseudonym", "source"):  # fail at the start if a key is missing: nothing could be answered
        keys.key(purpose)
    return load_release(FOLDER)


def respond(uploads: Sequence[Upload], task: str, requester: Requester) -> JSONResponse:
    """The answer to one case, or a problem detail."""
    from serving.inference.answer import Withheld, answer

    try:
        return JSONResponse(answer(release(), uploads, task, requester))
    except Withheld as withheld:
        return problem(503, str(withheld), {"Retry-After": "5"})
    except Fault as fault:
        return problem(422, str(fault))


LOGGING = {"access": {"enabled": False}}  # the journal already records every request
TRACING = {"excluded_urls": ".*"}  # nothing reads spans, and a query that is not UTF-8 would fail in the tracing


@bentoml.service(name="oncoloop", workers=2, threads=2, traffic={"timeout": 120}, logging=LOGGING, tracing=TRACING)
class Oncoloop:
    """Answers for the tasks of one release. Research use only."""

    def __init__(self) -> None:
        """Compile the release and answer its warm-up scans, because the first answers of a process are slow."""
        from lineage import accounts  # noqa: F401  imported now, so that the first request does not wait
        from serving.inference import answer  # noqa: F401
        from serving.inference.predict import predict

        for entry in release().manifest[WARMUP]:
            scan = FOLDER / WARMUP / entry["file"]
            predict(release(), [Upload(scan.name, scan.read_bytes())], entry["task"])

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, files: list[Path], ctx: bentoml.Context, task: str = "") -> dict[str, Any]:
        """Answer one case: a file, a DICOM series, or several files of one patient. `task` may be empty for DICOM.

        BentoML's client reads this signature. `UploadForms` answers all HTTP requests before they get here.
        """
        from serving.inference.answer import answer

        uploads = [Upload(file.name, file.read_bytes()) for file in files]
        return answer(release(), uploads, task, ctx.request.state.actor)


async def manifest(request: Request) -> JSONResponse:
    """GET /manifest: the release's manifest."""
    del request
    return JSONResponse(read_manifest(FOLDER))


async def openapi_document(request: Request) -> JSONResponse:
    """GET /docs.json: the OpenAPI document."""
    del request
    facts = read_manifest(FOLDER)
    return JSONResponse(openapi.page(facts["release"], sorted(facts["tasks"])))


async def api_page(request: Request) -> HTMLResponse:
    """GET /: the OpenAPI document as a page. BentoML's own page would report each view to its maker."""
    del request
    return HTMLResponse(PAGE)


routes = [Route("/manifest", manifest), Route("/docs.json", openapi_document), Route("/", api_page)]
cast(Any, Oncoloop).mount_asgi_app(Starlette(routes=routes), path="/", name="pages")
page_paths = [f"/static_content/{name}" for name in PAGE_FILES]
known_paths = ["/predict", *(route.path for route in routes), *SYSTEM_PATHS, *page_paths]
cast(Any, Oncoloop).add_asgi_middleware(PathFilter, paths=known_paths)
cast(Any, Oncoloop).add_asgi_middleware(RequestGuard, limit_mb=limit_mb)
cast(Any, Oncoloop).add_asgi_middleware(UploadForms, respond=respond)
