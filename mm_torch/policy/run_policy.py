"""Run the exported policy in plain MuJoCo and compare it with its evaluation: ``python run_policy.py``.

Needs mujoco (the version in policy.json), numpy and torch, or onnxruntime in place of torch. Own motions: give npz files
with ``qpos`` (F, Q) at the control rate and, where known, ``act`` (F, M). One world would do; the policy gets as many equal
rows as the evaluation had worlds, because matrix products of other sizes round differently and a fall tells them apart.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import mujoco
import numpy as np

HERE = Path(__file__).resolve().parent
SUFFIX = {"torchscript": ".pt", "pt2": ".pt2", "onnx": ".onnx"}
ERRORS = ("relative_site_error", "absolute_site_error", "root_position_error", "joint_position_error")
Arrays = dict[str, np.ndarray]


def load_module(name: str, kind: str) -> Callable[..., list[np.ndarray]]:
    """The exported module ``policy`` or ``observer`` as a function of arrays that returns a list of arrays."""
    path = str(HERE / (name + SUFFIX[kind]))
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        return lambda *x: session.run(None, dict(zip((i.name for i in session.get_inputs()), x, strict=True)))
    import torch

    torch.set_num_threads(1)
    module = torch.jit.load(path) if kind == "torchscript" else torch.export.load(path).module()

    def call(*inputs: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            out = module(*(torch.from_numpy(x) for x in inputs))
        return [y.numpy() for y in (out if isinstance(out, (tuple, list)) else [out])]

    return call


def load_reference(model: mujoco.MjModel, sheet: dict, path: Path) -> Arrays:
    """What the observer needs of a motion: velocities by central differences, world motion of the mimic sites."""
    file, data, dt = np.load(path, allow_pickle=False), mujoco.MjData(model), 1.0 / sheet["control_rate_hz"]
    qpos, bodies = file["qpos"].astype(float), sheet["site_bodies"]
    frames, roots, qvel = len(qpos), model.body_rootid[bodies], np.zeros((len(qpos), model.nv))
    xpos, xquat, xvel = (np.zeros((frames, len(bodies), n)) for n in (3, 4, 6))
    for f in range(frames):
        a, b = max(f - 1, 0), min(f + 1, frames - 1)
        mujoco.mj_differentiatePos(model, qvel[f], (b - a) * dt, qpos[a], qpos[b])
        data.qpos[:], data.qvel[:] = qpos[f], qvel[f]
        for stage in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_comVel):
            stage(model, data)
        xpos[f], xquat[f], xvel[f] = data.xpos[bodies], data.xquat[bodies], data.cvel[bodies]
        xvel[f, :, 3:] += np.cross(xvel[f, :, :3], xpos[f] - data.subtree_com[roots])
    act = file["act"] if "act" in file and file["act"].size else np.full((frames, model.nu), -1.0)
    out = dict(zip(sheet["reference"], (x.astype(np.float32) for x in (qpos, qvel, xpos, xquat, xvel, act)), strict=True))
    if model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE:  # episodes start above the world's origin
        start = out["ref_qpos"][0, :2].copy()
        out["ref_qpos"][:, :2] -= start
        out["ref_site_xpos"][..., :2] -= start
    return out


def deviations(sheet: dict, data: mujoco.MjData, reference: Arrays, frame: int) -> Arrays:
    """Errors of the simulated body against the reference frame that is due, in m and rad."""
    site = data.xpos[sheet["site_bodies"]].astype(np.float32) - reference["ref_site_xpos"][frame]
    joint = (data.qpos.astype(np.float32) - reference["ref_qpos"][frame])[sheet["independent_qpos"]]
    far, relative = np.linalg.norm(site, axis=-1), np.linalg.norm(site[1:] - site[:1], axis=-1)
    return dict(zip(ERRORS, (relative.mean(), far.mean(), far[0], np.sqrt(np.square(joint).mean())), strict=True))


def run(model: mujoco.MjModel, sheet: dict, reference: Arrays, policy: Callable, observer: Callable) -> dict:
    """Track a reference from its first frame; returns the control steps tracked and the mean errors over them."""
    data, last = mujoco.MjData(model), len(reference["ref_qpos"]) - 1
    data.qpos[:], data.qvel[:] = reference["ref_qpos"][0], reference["ref_qvel"][0]
    if sheet["initial_activation"] == "reference":
        data.act[:] = reference["ref_act"][0].clip(0.0)
    data.ctrl[:] = data.act
    mujoco.mj_forward(model, data)
    noise = np.zeros((1, sheet["actions"]), np.float32)  # standard normal numbers here sample as in training
    total, held = dict.fromkeys(ERRORS, 0.0), None
    for frame in range(last):
        state = [getattr(data, name).astype(np.float32)[None] for name in sheet["state"]]
        observation, *others = observer(*state, *reference.values(), np.array([frame]))
        held = observation if frame % sheet["hold_steps"] == 0 else held
        data.ctrl[:] = policy(*(x.repeat(sheet["evaluation_rows"], 0) for x in (held, *others, noise)))[0][0]
        mujoco.mj_step(model, data, nstep=sheet["substeps"])
        mujoco.mj_fwdPosition(model, data)  # bring kinematics and muscle lengths up to date
        mujoco.mj_fwdVelocity(model, data)
        now = deviations(sheet, data, reference, frame + 1)
        total = {name: total[name] + float(now[name]) for name in ERRORS}
        if any(limit is not None and now[name] > limit for name, limit in sheet["early_termination"].items()):
            break
    return {"episode_length": frame + 1} | {name: value / (frame + 1) for name, value in total.items()}


def main() -> None:
    """Entry point."""
    sheet, parser = json.loads((HERE / "policy.json").read_text()), argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="*", help="names in clips/ or npz files; default: all in clips/")
    parser.add_argument("--format", choices=sorted(sheet["formats"]), default=next(iter(sheet["formats"])))
    options = parser.parse_args()
    model = mujoco.MjModel.from_binary_path("mjb", {"mjb": gzip.decompress((HERE / "body.mjb.gz").read_bytes())})
    modules = [load_module(name, options.format) for name in ("policy", "observer")]
    for clip in options.clips or sorted(p.stem for p in (HERE / "clips").glob("*.npz")):
        path = Path(clip) if clip.endswith(".npz") else HERE / "clips" / f"{clip}.npz"
        got, due = run(model, sheet, load_reference(model, sheet, path), *modules), sheet["evaluation"].get(clip)
        print(f"{clip}: {got['episode_length']} steps, " + ", ".join(f"{n} {got[n]:.5f}" for n in ERRORS), end="  ")
        same = due and due["episode_length"] == got["episode_length"] and all(abs(due[n] - got[n]) < 1e-3 for n in ERRORS)
        print("as evaluated" if same else f"EVALUATED OTHERWISE: {due}" if due else "no clip of the evaluation")


if __name__ == "__main__":
    main()
