"""Motion capture to clips: ``python tools/retarget.py INPUTS... body=NAME out=DIRECTORY [key=value ...]``.

Inputs are files, directories (searched through) and patterns: AMASS npz (SMPL+H or SMPL-X), AMC with its ASF beside it,
BVH, OpenSim joint angles (.mot) and Trajectory npz of MuscleMimic. Each becomes ``out/NAME.npz``; the folders below a
directory or a pattern are kept. ``out/manifest.csv`` holds status, hashes and figures of every clip and is written after
each. A rerun skips what is unchanged, so a run that was stopped goes on with the same command. A capture that cannot be
used is listed with its reason and the others are made all the same.

Exit status: 0 all clips are there, 1 some failed, 2 the command is wrong, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":  # before BLAS starts threads: results must not depend on their number
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

from mm_torch.motion.clip import TRAJECTORIES
from mm_torch.motion.splits import SplitError, read_split, select
from sim_models.registry import load_body
from tools.retargeting import manifest, pipeline
from tools.retargeting.inputs import Source, UsageError, find_sources
from tools.retargeting.jobs import UNCHANGED, Job, Outcome, run_here, run_parallel
from tools.retargeting.manifest import FAILED, OK, ManifestError
from tools.retargeting.readers import SUFFIXES, Options
from tools.retargeting.settings import describe, parse, reader_options

EXAMPLES = """Examples:
  python tools/retarget.py AMASS split=recipes/splits/kit_kinesis_test.txt body=myo_fullbody out=clips workers=8
  python tools/retarget.py 'cmu/*/*.amc' more/walk.bvh body=myo_fullbody out=clips
  python tools/retarget.py AMASS body=myo_bimanual out=arms smplh_model=smplh.npz --write-trajectory"""


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
    config = manifest.config_hash(load_body(values["body"]), {"options": relevant, "stages": pipeline.config()})
    jobs = []
    for source in sources:
        row = rows.get(source.name, {})
        known = (row["source_hash"], row["config_hash"]) if row.get("status") == OK else None
        file = f"{source.name}.npz"
        jobs.append(Job(
            source.name, source.path, out / file, out / TRAJECTORIES / file, values["write_trajectory"], config, known
        ))
    return jobs


def record(job: Job, outcome: Outcome, body: str) -> manifest.Row:
    """The manifest's row of a job that was done."""
    identity = {
        "clip": job.name, "status": outcome.status, "reason": outcome.reason, "source": str(job.source),
        "source_hash": outcome.source_hash, "config_hash": job.config_hash, "body": body,
    }
    return manifest.make_row(identity, outcome.figures | {"seconds_spent": outcome.seconds})


def run(jobs: list[Job], values: dict[str, Any], options: Options, rows: dict[str, manifest.Row]) -> int:
    """Do all jobs and keep the manifest; returns how many failed."""
    path, body, start = values["out"] / manifest.NAME, values["body"], time.perf_counter()
    workers = min(values["workers"], len(jobs))
    done: Iterator[tuple[Job, Outcome]] = (
        run_here(jobs, body, options) if workers == 1 else run_parallel(jobs, body, options, workers)
    )
    counts = dict.fromkeys((OK, UNCHANGED, FAILED), 0)
    for number, (job, outcome) in enumerate(done, 1):
        counts[outcome.status] += 1
        if outcome.status == UNCHANGED:
            continue
        rows[job.name] = record(job, outcome, body)
        manifest.write_manifest(path, rows.values())
        text = outcome.line if outcome.status == OK else f"failed: {outcome.reason}"
        print(f"[{number}/{len(jobs)}] {job.name:24s} {text}  ({outcome.seconds:.1f} s)", flush=True)
    print(f"{counts[OK]} clips made, {counts[UNCHANGED]} unchanged, {counts[FAILED]} failed of {len(jobs)} in "
          f"{time.perf_counter() - start:.1f} s; figures in {path}")
    for job in jobs if counts[FAILED] else ():
        if rows[job.name]["status"] == FAILED:
            print(f"failed: {job.name}: {rows[job.name]['reason']}", file=sys.stderr)
    return counts[FAILED]


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        print(f"{(__doc__ or '').strip()}\n\nSettings:\n{describe()}\n\n{EXAMPLES}")
        return 0
    try:
        inputs, values = parse(arguments)
        options, out = reader_options(values), values["out"]
        sources = chosen(find_sources(inputs, SUFFIXES, out), values["split"])
        with manifest.locked(out):
            rows = manifest.read_manifest(out / manifest.NAME)
            return 1 if run(make_jobs(sources, values, options, rows), values, options, rows) else 0
    except (UsageError, ManifestError) as error:
        print(f"retarget: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nretarget: stopped; what is made is kept, and the same command goes on from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
