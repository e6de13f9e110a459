"""The endpoint: HTTP to `serving/predict.py` and back. One worker process holds one release."""

import shutil
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import bentoml
from _bentoml_impl import serde  # type: ignore[import-untyped]
from bentoml.exceptions import InvalidArgument
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from lineage import keys, places
from lineage.fault import Fault
from serving import release as releases
from serving.answer import Withheld, answer, clean_name
from serving.form import Forms
from serving.problem import Guard, problem
from serving.upload import Upload

FOLDER = Path(__file__).resolve().parent.parent / "release"  # where a Bento keeps it, beside this code
MARK = "~"  # parts BentoML's temporary file name from the name that the file came with


class UploadsOnly(serde.MultipartSerde):  # type: ignore[misc]
    """BentoML's form reader without its download of addresses: a file is what was sent, under its cleaned name."""

    async def parse_request(self, request: Request, cls: type) -> Any:
        """The form's fields. A form that cannot be read is the sender's error, not the server's."""
        try:
            return await super().parse_request(request, cls)
        except ValidationError:
            raise
        except (HTTPException, ValueError, RecursionError) as error:
            raise InvalidArgument(f"the form cannot be read: {getattr(error, 'detail', error)}") from error

    @staticmethod
    async def ensure_file(obj: str | UploadFile) -> UploadFile:
        """A sent file, renamed; text in the place of a file is refused."""
        if isinstance(obj, str):
            raise InvalidArgument("the field `files` holds text; send the files themselves")
        obj.filename = MARK + clean_name(obj.filename or "")
        return obj


serde.ALL_SERDE.update(dict.fromkeys(("multipart/form-data", "application/x-www-form-urlencoded"), UploadsOnly))


def limit_mb() -> float:
    """Megabytes that one request may send, from the release."""
    return float(releases.read_manifest(FOLDER)["serving"]["max_upload_mb"])


@lru_cache(maxsize=1)
def release() -> releases.Release:
    """The release of this process, compiled once."""
    places.set_environment()
    keys.key("pseudonym")  # without it no answer could be journalled: say so at the start
    return releases.load_release(FOLDER)


def respond(uploads: Sequence[Upload], task: str, actor: str) -> JSONResponse:
    """The answer to one case, or the problem with it."""
    try:
        return JSONResponse(answer(release(), uploads, task, actor))
    except Withheld as withheld:
        return problem(503, str(withheld), {"Retry-After": "5"})
    except Fault as fault:
        return problem(422, str(fault))


@bentoml.service(name="oncoloop", workers=2, threads=2, traffic={"timeout": 120})
class Oncoloop:
    """Answers for the tasks of one release. Research use only."""

    def __init__(self) -> None:
        release()

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def sweep() -> None:
        """Before the workers start: remove what a server that was killed left of its uploads."""
        for left in Path(tempfile.gettempdir()).glob("bentoml-request-*"):
            if left.is_relative_to(places.home()):
                shutil.rmtree(left)

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, files: list[Path], ctx: bentoml.Context, task: str = "") -> dict[str, Any]:
        """Answer one case: a file, a DICOM series, or several files of one patient. `task` may stay empty for DICOM."""
        uploads = [Upload(_name(file, position), file.read_bytes()) for position, file in enumerate(files, 1)]
        response = respond(uploads, task, ctx.request.state.actor)
        ctx.response.status_code = response.status_code
        return response  # type: ignore[return-value]  # BentoML passes a response on; the annotation is its schema


def _name(file: Path, position: int) -> str:
    return file.name.partition(MARK)[2] or f"upload {position}"


async def manifest(request: Request) -> JSONResponse:
    """GET /manifest: what this release is made of."""
    del request
    return JSONResponse(releases.read_manifest(FOLDER))


cast(Any, Oncoloop).mount_asgi_app(Starlette(routes=[Route("/manifest", manifest)]), path="/", name="manifest")
cast(Any, Oncoloop).add_asgi_middleware(Guard, limit_mb=limit_mb)
cast(Any, Oncoloop).add_asgi_middleware(Forms, respond=respond)
