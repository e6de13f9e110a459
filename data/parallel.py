"""The same work on every core: in processes where there is enough of it, else in threads, which start at once.

Parsing DICOM holds Python's lock, so threads gain nothing there (measured: 1.0 times as fast on two cores).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from lineage.errors import Fault

ENOUGH = 400  # jobs that outweigh the start of the first process, 2 seconds of imports; later ones start at once
# What the server imports, so that no process has to: the program itself, and what examining a scan will ask for.
PRELOADED = [
    "__main__",
    "data.batch.examine_scan",
    "data.dataset.shards",
    "pydicom.pixels",
    "openjpeg",
    "libjpeg",
    "scipy.ndimage",
    "PIL.Image",
]
CHUNK = 16  # jobs handed over at once

Job = TypeVar("Job")
Result = TypeVar("Result")


def spread(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int, enough: int = 0) -> list[Result]:
    """`work` of every job, in their order; the first exception is raised. `work`, jobs and results can be pickled.

    Processes are forked from a server that has no threads, since a fork of this process would copy the locks of its
    other threads as they are. They end with the process that asked for them, however that ends. Fault where one of them
    is killed, for memory as a rule.
    """
    if workers < 2 or len(jobs) < 2:
        return [work(job) for job in jobs]
    if len(jobs) < (enough or ENOUGH):
        with ThreadPoolExecutor(workers) as threads:
            return list(threads.map(work, jobs))
    chunk = max(1, min(CHUNK, len(jobs) // (4 * workers)))
    begun = (dict(os.environ), Path.cwd())
    with ProcessPoolExecutor(workers, mp_context=_context(), initializer=_begin, initargs=begun) as processes:
        try:
            return list(processes.map(work, jobs, chunksize=chunk))
        except BrokenExecutor as error:
            raise Fault("a process that read scans was ended from outside; free some memory and start again") from error
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            raise


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _begin(environment: dict[str, str], folder: Path) -> None:
    """In a new process: take over what the server was started without, leave the interrupt key to the parent, and end
    when the parent is gone."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
