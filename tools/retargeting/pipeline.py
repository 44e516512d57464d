"""A capture in, a clip out: the stages in order."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mm_torch.motion.clip import Clip
from sim_models.embodiment import Embodiment
from sim_models.kinematics import site_motion
from tools.retargeting import (
    balance,
    contact,
    corrections,
    distances,
    ground,
    guess,
    limits,
    repair,
    rotations,
    soles,
    solve,
    stages,
    symmetry,
    targets,
)
from tools.retargeting.corrections import HORIZONTAL
from tools.retargeting.metrics import Metrics, fit_error, measure
from tools.retargeting.readers import Options, read_capture
from tools.retargeting.skeleton import Capture, CaptureError, JointMotion
from tools.retargeting.stages import Motion, solver_for
from tools.retargeting.targets import Skeleton, Targets, build_targets, turning, weigh
from tools.solve_activations import figures, with_activations

MODULES: tuple[ModuleType, ...] = (
    balance, contact, corrections, distances, ground, guess, limits, repair, soles, solve, stages, symmetry, targets,
)


def config() -> dict[str, Any]:
    """Every constant that the stages depend on, by module and name; plain text, for a hash."""
    return {m.__name__: {k: str(v) for k, v in sorted(vars(m).items()) if k.isupper()} for m in MODULES}


def make_clip(body: Embodiment, path: Path, options: Options, name: str) -> tuple[Clip, Metrics]:
    """Read a capture and make a clip of it.

    Raises:
        CaptureError: the file cannot be used.
    """
    solver_for(body, options.fps)  # made once per process, so no clip's time
    start = time.process_time()
    capture = read_capture(path, options)
    motion = retarget(body, capture.resample(options.fps), options.fps)
    error = fit_error(body, motion.qpos, motion.wanted.position)
    clip = Clip.from_qpos(body, motion.qpos, options.fps, provenance={}, fit_error=error, name=name)
    spent = time.process_time() - start
    metrics = measure(
        body, motion.qpos, options.fps, wanted=motion.wanted.position, shifted=motion.targets.position,
        contact=motion.contact, tilt_deg=motion.tilt, widened_m=motion.widened, balance_shift_max_m=motion.balanced,
        scale=motion.targets.scale, repaired_pct=100.0 * capture.provenance.get("repaired_share", 0.0),
        cut_pct=_cut_pct(capture),
    )
    provenance = dict(capture.provenance) | {
        "file": path.name, "fps_in": capture.fps, "tool": "tools/retarget.py", "model_hash": body.model_hash,
        "metrics": metrics.as_dict(),
    }
    clip = replace(clip, contact_names=motion.parts, contact=motion.contact, provenance=provenance)
    metrics = replace(metrics, ms_per_frame=1e3 * spent / len(motion.qpos))
    if options.activations:
        start = time.perf_counter()
        clip, solution = with_activations(body, clip)
        spent = time.perf_counter() - start
        metrics = replace(metrics, **figures(solution), activation_ms_per_frame=1e3 * spent / len(motion.qpos))
    return clip, metrics


def _cut_pct(capture: Capture | JointMotion) -> float:
    cut = sum(capture.provenance.get("cut", ()))
    return 100.0 * cut / (round(capture.duration * capture.fps) + 1 + cut)


def retarget(body: Embodiment, capture: Capture | JointMotion, fps: float) -> Motion:
    """Motion of a body after a capture at the wanted rate.

    Joint angles of a body like ours are followed through the sites that they give, so that floor, contacts, limits and
    smoothness are treated as for any other capture.

    Raises:
        CaptureError: joint angles without the root that the body needs.
    """
    solver = solver_for(body, fps)
    if isinstance(capture, Capture):
        outward = capture.segment("pelvis")[:, :, 0] * HORIZONTAL
        return solver.run(build_targets(solver.body, capture, solver.skeleton), None, outward)
    qpos = posed(body, capture)
    wanted, outward = sites_of(body, qpos)
    return solver.run(wanted, qpos, outward)


def posed(body: Embodiment, motion: JointMotion) -> np.ndarray:
    """(F, Q) a body's positions with the joints that a motion names, the others neutral, couplings enforced.

    Raises:
        CaptureError: the body has a root and the motion none, or they have no joint in common.
    """
    qpos = np.tile(body.neutral_qpos, (len(motion.qpos), 1))
    shared = [(k, name) for k, name in enumerate(motion.joint_names) if name in body.joint_names]
    if not shared:
        raise CaptureError(f"none of the motion's joints ({', '.join(motion.joint_names[:3])} ...) belongs to {body.name}")
    for column, name in shared:
        qpos[:, body.model.joint(name).qposadr[0]] = motion.qpos[:, column]
    if body.free_root:
        if motion.root is None:
            raise CaptureError(f"the motion has no root, which {body.name} needs; retarget it with body=myo_bimanual")
        qpos[:, :7] = motion.root
    return body.couplings.enforce(qpos)


def sites_of(body: Embodiment, qpos: np.ndarray) -> tuple[Targets, np.ndarray]:
    """Targets that a motion (F, Q) meets, and the horizontal direction (F, 3) to its left."""
    sites = site_motion(body, qpos, np.zeros((len(qpos), body.model.nv)))
    skeleton = Skeleton(body)
    turn = rotations.from_quaternion(sites.quaternion)
    left = (turn[:, 0] @ skeleton.rest_mat[0].T)[:, :, 0]
    return weigh(body, skeleton, sites.position, turn[:, turning(body, skeleton)], 1.0), left * HORIZONTAL
