"""Captures made into clip files, one after the other or by several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from mm_torch.motion.clip import Clip, MotionError, load_clip
from sim_models.embodiment import Embodiment
from sim_models.registry import load_body
from tools.retargeting.atomic import remove_leftovers
from tools.retargeting.manifest import FAILED, OK, file_hash, stamp
from tools.retargeting.pipeline import make_clip
from tools.retargeting.readers import Options, source_files
from tools.retargeting.skeleton import CaptureError
from tools.retargeting.upstream import write_trajectory

UNCHANGED = "unchanged"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # one each: sums must not depend on them
FORESEEN = (CaptureError, MotionError, OSError, ArithmeticError)
# A capture that trips over a mistake of ours must not take the other hundreds with it; its traceback is printed.
UNFORESEEN = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError, AssertionError, EOFError)


@dataclass(frozen=True)
class Job:
    """One capture to make a clip of.

    ============ ================================================================================
    name         of the clip
    source       the capture
    clip         file to write
    trajectory   file of the same motion for MuscleMimic 0.1.0
    export       whether to write that one as well
    config_hash  of everything but the source that the clip depends on
    known        hashes of source and settings in the manifest, or None where the clip is not in it
    ============ ================================================================================
    """

    name: str
    source: Path
    clip: Path
    trajectory: Path
    export: bool
    config_hash: str
    known: tuple[str, str] | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    =========== ==============================================================
    status      ok, failed or unchanged
    reason      why it failed
    source_hash of the capture and the files it needs; empty where unreadable
    figures     of the clip, by manifest column
    line        the figures for the terminal
    seconds     spent
    =========== ==============================================================
    """

    status: str
    reason: str = ""
    source_hash: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    line: str = ""
    seconds: float = 0.0


def work(body: Embodiment, options: Options, job: Job) -> Outcome:
    """Make a clip unless an unchanged one is there; a failing capture leaves no file behind."""
    start = time.perf_counter()
    source_hash = ""
    try:
        source_hash = file_hash(*source_files(job.source, options))
        made = (source_hash, job.config_hash)
        if job.known == made and stamp(job.clip) == made:
            if job.export and not job.trajectory.is_file():
                write_trajectory(body, load_clip(job.clip), job.trajectory)
            return Outcome(UNCHANGED, source_hash=source_hash)
        remove_files(job)
        clip, metrics = make_clip(body, job.source, options, job.name)
        clip = replace(clip, provenance=clip.provenance | {"source_hash": made[0], "config_hash": made[1]})
        _save(body, clip, job)
    except FORESEEN as error:
        reason = str(error) or type(error).__name__
    except UNFORESEEN as error:
        traceback.print_exc()
        reason = f"{job.source}: {type(error).__name__}: {error} (not foreseen; the traceback is on the terminal)"
    else:
        seconds = time.perf_counter() - start
        return Outcome(OK, "", source_hash, metrics.as_dict(), metrics.line(), seconds)
    remove_files(job)
    return Outcome(FAILED, reason, source_hash, seconds=time.perf_counter() - start)


def _save(body: Embodiment, clip: Clip, job: Job) -> None:
    clip.save(job.clip)
    if job.export:
        write_trajectory(body, clip, job.trajectory)


def remove_files(job: Job) -> None:
    """Delete what earlier settings or a killed run left in the place of a clip: it must not pass for this one."""
    for path in (job.clip, job.trajectory):
        remove_leftovers(path)
        path.unlink(missing_ok=True)


# -- one process ------------------------------------------------------------------------------------------------------
def run_here(jobs: Iterable[Job], body_name: str, options: Options) -> Iterator[tuple[Job, Outcome]]:
    """Do jobs in this process, in order, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        body = load_body(body_name, fixes=options.fixes)
        for job in jobs:
            yield job, work(body, options, job)
    finally:
        torch.set_num_threads(threads)


# -- several processes ------------------------------------------------------------------------------------------------
@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    connection: Connection
    job: Job | None = None


def run_parallel(
    jobs: Iterable[Job], body_name: str, options: Options, workers: int
) -> Iterator[tuple[Job, Outcome]]:
    """Do jobs in processes of their own, yielding them as they end.

    Each process loads the body once and computes on one thread. One that dies fails its job and is replaced.

    Args:
        jobs: what to do.
        body_name: registry name of the body.
        options: of the retargeting.
        workers: most processes at a time.
    """
    queue, crew = deque(jobs), []
    try:
        while queue or any(w.job for w in crew):
            idle = [w for w in crew if w.job is None]
            for _ in range(min(len(queue) - len(idle), workers - len(crew))):
                idle.append(_hire(body_name, options))
                crew.append(idle[-1])
            for worker in idle[: len(queue)]:
                worker.job = queue.popleft()
                with suppress(BrokenPipeError):  # a dead worker is noticed below
                    worker.connection.send(worker.job)
            ready = set(wait([w.connection for w in crew if w.job]))
            for worker in [w for w in crew if w.connection in ready]:
                job, worker.job = worker.job, None
                try:
                    outcome = worker.connection.recv()
                except (EOFError, ConnectionResetError):
                    outcome = _death(worker, job)
                    crew.remove(worker)
                yield job, outcome
    finally:
        for worker in crew:
            worker.process.terminate()
            worker.process.join()
            worker.connection.close()


def _hire(body_name: str, options: Options) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, body_name, options), daemon=True)
    with _single_threaded():
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(connection: Connection, body_name: str, options: Options) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    torch.set_num_threads(1)
    body = load_body(body_name, fixes=options.fixes)
    while True:
        try:
            job = connection.recv()
        except EOFError:  # the parent is gone
            return
        with suppress(BrokenPipeError):
            connection.send(work(body, options, job))


def _death(worker: _Worker, job: Job) -> Outcome:
    worker.process.join()
    worker.connection.close()
    remove_files(job)
    code = worker.process.exitcode
    if code == -signal.SIGKILL:
        cause = "killed (SIGKILL), perhaps for want of memory: give fewer workers"
    elif code < 0:
        cause = f"ended by {signal.Signals(-code).name}"
    else:
        cause = f"ended with exit code {code}; the traceback is on the terminal"
    return Outcome(FAILED, f"{job.source}: the process that worked on it was {cause}")


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Environment of child processes in which BLAS starts no threads."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
