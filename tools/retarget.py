"""Motion capture to clips: ``python tools/retarget.py INPUTS... body=NAME out=DIRECTORY [key=value ...]``.

Inputs are files, directories (searched through) and patterns: AMASS npz (SMPL+H or SMPL-X), AMC with its ASF beside it,
BVH, OpenSim joint angles (.mot) and Trajectory npz of MuscleMimic. Each becomes ``out/NAME.npz``; the folders below a
directory or a pattern are kept. ``out/manifest.csv`` holds status, hashes and figures of every clip and is written after
each. A rerun skips what is unchanged, so a run that was stopped goes on with the same command. A capture that cannot be
used is listed with its reason and the others are made all the same. Started by torchrun or srun, several processes share
the captures (docs/scaling.md).

Exit status: 0 all clips are there, 1 some failed, 2 the command is wrong, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":  # before BLAS starts threads: results must not depend on their number
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import torch

from mm_torch.config.load import RecipeError
from mm_torch.maths import ranks
from mm_torch.motion.clip import TRAJECTORIES
from mm_torch.motion.splits import SplitError, read_split, select
from sim_models.registry import BodyError, load_body
from tools.retargeting import manifest, pipeline
from tools.retargeting.inputs import Source, UsageError, find_sources
from tools.retargeting.jobs import UNCHANGED, Job, Outcome, run_here, run_parallel
from tools.retargeting.manifest import FAILED, OK, ManifestError
from tools.retargeting.readers import SUFFIXES, Options
from tools.retargeting.settings import describe, parse, reader_options

EXAMPLES = """Examples:
  python tools/retarget.py AMASS split=recipes/splits/kit_kinesis_test.txt body=myo_fullbody out=clips workers=8
  python tools/retarget.py 'cmu/*/*.amc' more/walk.bvh body=myo_fullbody out=clips
  python tools/retarget.py AMASS body=myo_bimanual out=arms smplh_model=smplh.npz --write-trajectory
  torchrun --nproc_per_node=8 tools/retarget.py AMASS body=myo_fullbody out=clips"""


def chosen(sources: list[Source], split: Path | None) -> list[Source]:
    """The captures of a split; all where there is none. Says what the split names and the inputs lack.

    Raises:
        UsageError: the split cannot be read or none of its motions is there.
    """
    if split is None:
        return sources
    try:
        found, missing = select([s.path for s in sources], read_split(split))
    except SplitError as error:
        raise UsageError(str(error)) from None
    if not found:
        raise UsageError(f"split={split}: none of its motions is among the {len(sources)} captures, e.g. {missing[0]}")
    if missing:
        print(f"split={split}: {len(found)} motions found, {len(missing)} are not among the inputs, e.g. {missing[0]}")
    wanted = set(found)
    return [s for s in sources if s.path in wanted]


def make_jobs(sources: list[Source], values: dict[str, Any], options: Options, rows: dict[str, manifest.Row]) -> list[Job]:
    """A job per capture.

    Raises:
        UsageError: the directory holds clips of another body, or one of theirs would stand where trajectories go.
    """
    out: Path = values["out"]
    other = next((row for row in rows.values() if row["body"] not in ("", values["body"])), None)
    if other is not None:
        raise UsageError(f"out={out}: holds clips of {other['body']} ({other['clip']}); choose another directory")
    taken = next((s for s in sources if s.name.split("/")[0] == TRAJECTORIES), None)
    if taken is not None:
        raise UsageError(
            f"{taken.path}: out/{TRAJECTORIES} is kept for the original's files; name its folder {taken.path.parent}"
        )
    relevant = {k: v for k, v in asdict(options).items() if not isinstance(v, Path)}  # files count as part of the source
    body = load_body(values["body"], fixes=options.fixes)
    config = manifest.config_hash(body, {"options": relevant, "stages": pipeline.config()})
    jobs = []
    for source in sources:
        row = rows.get(source.name, {})
        known = (row["source_hash"], row["config_hash"]) if row.get("status") == OK else None
        file = f"{source.name}.npz"
        jobs.append(Job(
            source.name, source.path, out / file, out / TRAJECTORIES / file, values["write_trajectory"], config, known
        ))
    return jobs


def share_of_rank(jobs: list[Job]) -> list[Job]:
    """The jobs of this process: all, or a part that the first of several dealt out by the size of what is to be made.

    Raises:
        UsageError: the processes were started with different words or see different files.
    """
    content = [(job.name, str(job.clip), job.config_hash) for job in jobs]
    if not ranks.agreed(hashlib.sha256(json.dumps(content).encode()).hexdigest()):
        raise UsageError("the processes of this run see different settings or captures; start all with the same words, on a "
                         "disk that all machines see")
    made = [job.known is not None and job.known[1] == job.config_hash for job in jobs]
    sizes = [0 if done else job.source.stat().st_size for job, done in zip(jobs, made, strict=True)]
    hands = json.loads(ranks.texts(json.dumps(ranks.deal(sizes, ranks.world_size()) if ranks.is_first() else []))[0])
    return [jobs[number] for number in hands[ranks.rank()]]


def record(job: Job, outcome: Outcome, body: str) -> manifest.Row:
    """The manifest's row of a job that was done."""
    identity = {
        "clip": job.name, "status": outcome.status, "reason": outcome.reason, "source": str(job.source),
        "source_hash": outcome.source_hash, "config_hash": job.config_hash, "body": body,
    }
    return manifest.make_row(identity, outcome.figures | {"seconds_spent": outcome.seconds})


def run(jobs: list[Job], values: dict[str, Any], options: Options, rows: dict[str, manifest.Row]) -> int:
    """Do all jobs, together with the other processes where there are some, and keep the manifest; returns how many failed."""
    out, body, start = values["out"], values["body"], time.perf_counter()
    alone, own = ranks.world_size() == 1, share_of_rank(jobs)
    path, rows = (out / manifest.NAME, rows) if alone else (manifest.part(out, ranks.rank()), {})
    workers = max(1, min(values["workers"], len(own)))
    done: Iterator[tuple[Job, Outcome]] = (
        run_here(own, body, options) if workers == 1 else run_parallel(own, body, options, workers)
    )
    counts = dict.fromkeys((OK, UNCHANGED, FAILED), 0)
    for number, (job, outcome) in enumerate(done, 1):
        counts[outcome.status] += 1
        if outcome.status == UNCHANGED:
            continue
        rows[job.name] = record(job, outcome, body)
        manifest.write_manifest(path, rows.values())
        text = outcome.line if outcome.status == OK else f"failed: {outcome.reason}"
        place = f"{number}/{len(own)}" if alone else f"process {ranks.rank()}: {number}/{len(own)}"
        print(f"[{place}] {job.name:24s} {text}  ({outcome.seconds:.1f} s)", flush=True)
    made, unchanged, failed = ranks.sum_over_ranks(torch.tensor(list(counts.values()))).tolist()
    if ranks.is_first():
        rows = rows if alone else manifest.merge_parts(out)
        print(f"{made} clips made, {unchanged} unchanged, {failed} failed of {len(jobs)} in "
              f"{time.perf_counter() - start:.1f} s; figures in {out / manifest.NAME}", flush=True)
        for job in jobs if failed else ():
            if rows[job.name]["status"] == FAILED:
                print(f"failed: {job.name}: {rows[job.name]['reason']}", file=sys.stderr)
    ranks.meet()  # a process that ends with an error ends the others: not before the manifest is whole
    return failed


def retarget(arguments: list[str]) -> int:
    """Do what the command asks for, in one process or in all of a group; returns the exit status."""
    inputs, values = parse(arguments)
    options, out = reader_options(values), values["out"]
    sources = chosen(find_sources(inputs, SUFFIXES, out), values["split"])
    with manifest.locked(out) if ranks.is_first() else nullcontext():
        if ranks.is_first():
            manifest.merge_parts(out)
        ranks.meet()  # the others read what the first has merged
        rows = manifest.read_manifest(out / manifest.NAME)
        return 1 if run(make_jobs(sources, values, options, rows), values, options, rows) else 0


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        print(f"{(__doc__ or '').strip()}\n\nSettings:\n{describe()}\n\n{EXAMPLES}")
        return 0
    try:
        if not ranks.launched():
            return retarget(arguments)
        from mm_torch.processes import SHARED_WORK, together  # takes seconds to import

        with together("start the same command again: what is made is kept", SHARED_WORK, gpus=False):
            return retarget(arguments)
    except (UsageError, ManifestError, RecipeError, BodyError) as error:
        print(f"retarget: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nretarget: stopped; what is made is kept, and the same command goes on from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
