"""Run jobs in parallel: in processes if there are many, else in threads, which start faster."""

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

# Threads do not speed up DICOM parsing, which holds the interpreter lock (measured: factor 1.0 on two cores). Starting
# the first process costs 2 seconds of imports; from this number of jobs on, processes are faster.
MIN_JOBS = 400
# The fork server imports these once, so that no process has to: the program, and what examining a scan needs.
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
CHUNK = 16  # maximum jobs sent to a process at once

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_parallel(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int, min_jobs: int = 0) -> list[Result]:
    """The results of `work` for all jobs, in order; raises the first exception. Processes are used from `min_jobs` on.

    `work`, jobs and results must be picklable. Processes are forked from a server without threads: a fork of this
    process would copy locks that its threads hold. They end when this process ends. Fault if one of them is killed,
    usually for lack of memory.
    """
    if workers < 2 or len(jobs) < 2:
        return [work(job) for job in jobs]
    if len(jobs) < (min_jobs or MIN_JOBS):
        with ThreadPoolExecutor(workers) as threads:
            return list(threads.map(work, jobs))
    chunk = max(1, min(CHUNK, len(jobs) // (4 * workers)))
    settings = (dict(os.environ), Path.cwd())
    with ProcessPoolExecutor(
        workers, mp_context=_start_context(), initializer=_set_up_process, initargs=settings
    ) as processes:
        try:
            return list(processes.map(work, jobs, chunksize=chunk))
        except BrokenExecutor as error:
            raise Fault("a process that read scans was killed; free some memory and start again") from error
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            raise


def _start_context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _set_up_process(environment: dict[str, str], folder: Path) -> None:
    """Set up a new process: environment and folder of the parent, no reaction to SIGINT, end with the parent."""
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
