"""The sheet of a policy bundle, ``policy.json``: every number that goes in and out, named, with unit and frame."""

from __future__ import annotations

import inspect
from typing import Any

import mm_torch
from mm_torch.config.schema import Recipe
from mm_torch.evaluation.tracker import ROWS
from mm_torch.policy.modules import NO_ACTIVATION, REFERENCE, STATE, sight
from mm_torch.task import observation
from mm_torch.task.env import MimicEnv

FORMAT = 2
LICENCES = (
    "The policy was made with mm_torch (Apache-2.0).",
    "The arm of myo_fullbody and myo_bimanual is MoBL-ARMS (Saul et al. 2015), released for non-commercial purposes only; "
    "this restricts the file body.mjb.gz and policies trained on these bodies too.",
    "Motions in clips/ carry the terms of their source, which policy.json states (clips_from).",
)
OWN, WORLD, ROOT, HEADING = "joint coordinates", "world", "root body", "heading of the simulated root"
# unit and frame of each observation term
UNITS: dict[str, tuple[str, str]] = {
    "root_height": ("m", WORLD),
    "root_up_b": ("1", ROOT),
    "root_velocity_b": ("m/s (3), rad/s (3)", ROOT),
    "joint_position": ("rad (hinges), m (slides)", OWN),
    "joint_velocity": ("rad/s (hinges), m/s (slides)", OWN),
    "muscle_activation": ("1, 0 to 1", "none"),
    "muscle_length": ("optimal fibre lengths", "none"),
    "muscle_velocity": ("maximum shortening velocities", "none"),
    "muscle_force": ("maximum isometric forces", "none"),
    "touch": ("N", "none"),
    "site_position_h": ("m", HEADING),
    "ref_site_error_h": ("m", HEADING),
    "ref_root_rotation_b": ("rad", ROOT),
    "ref_root_velocity_b": ("m/s (3), rad/s (3)", ROOT),
    "ref_joint_error": ("rad (hinges), m (slides)", OWN),
    "ref_joint_velocity": ("rad/s (hinges), m/s (slides)", OWN),
    "ref_activation": ("1, 0 to 1", "none"),
    "upstream_root_pose": ("m (1), quaternion wxyz (4)", WORLD),
    "upstream_joint_position": ("rad (hinges), m (slides)", OWN),
    "upstream_root_velocity": ("m/s (3) in world, rad/s (3) in root axes", "mixed"),
    "upstream_joint_velocity": ("rad/s (hinges), m/s (slides)", OWN),
    "upstream_muscle_state": ("m, m/s, N, 1, 1 of each muscle", "none"),
    "upstream_muscle_force_activation": ("N, 1 of each muscle", "none"),
    "upstream_sites": ("m, rad, rad/s, m/s", "world and main site"),
    "upstream_goal_concise": ("m, m/s, rad/s", WORLD),
    "upstream_goal_full": ("rad or m, rad/s or m/s, m, rad, rad/s, m/s", "world and main site"),
    "phase": ("1, 0 to 1", "none"),
}
_MEANINGS = {
    "observation": "raw, terms as below; while an action is held, that of the step at which it was chosen",
    "base": "excitation of a zero action in the coming control step",
    "joint_error": "position of each independent joint, reference one control step ahead minus own, rad",
    "joint_velocity_error": "velocity of each independent joint, likewise, rad/s",
    "balance": "root errors in heading axes, reference minus own, and load of both feet, for the reflexes",
    "noise": "zeros for the mean action; standard normal numbers for a sampled one, held as the action is",
}


def policy_sheet(recipe: Recipe, env: MimicEnv, extra: dict[str, Any]) -> dict[str, Any]:
    """Everything that running the policy elsewhere needs to know.

    Args:
        recipe: of the checkpoint, with the thresholds of its evaluation.
        env: an environment of that recipe.
        extra: the checkpoint's own section.

    Returns:
        JSON mapping; formats and evaluation are added by the bundle.
    """
    body, task = env.physics.body, recipe.task
    muscles, joints, actions = len(body.muscle_names), body.independent_hinges, env.action_spec.shape[-1]
    names = (*sight(task.action), "noise")
    balance = [] if env.balance is None else [env.balance.size]
    widths = dict(zip(names, (env.layout[-1].end, muscles, len(joints), len(joints), *balance, actions), strict=True))
    thresholds = task.termination
    return {
        "format": FORMAT,
        "recipe": recipe.recipe,
        "control_steps_trained": extra["control_steps"],
        "body": {"name": body.name, "fingers": body.fingers, "model_hash": extra["model_hash"]},
        "control_rate_hz": round(1.0 / body.control_dt, 6),
        "substeps": body.substeps,
        "hold_steps": task.action.hold_steps,
        "actions": actions,
        "initial_activation": task.reset_activations,
        "policy": {
            "inputs": [
                {"name": n, "shape": ["N", w], "dtype": "float32", "meaning": _MEANINGS[n]} for n, w in widths.items()
            ],
            "output": {
                "name": "ctrl", "shape": ["N", muscles], "dtype": "float32",
                "meaning": "excitation of each muscle; MuJoCo clamps it to [0, 1]",
            },
            "map": _action_map(recipe, env),
        },
        "state": list(STATE),
        "reference": list(REFERENCE),
        "reference_note": f"frames F at the control rate; ref_act holds {NO_ACTIVATION:g} where a motion has none; a free "
                          "root starts at x = y = 0; then frame (N,) int64, the reference frame that is due now",
        "observation": [
            {"term": s.name, "start": s.start, "end": s.end, "unit": UNITS[s.name][0], "frame": UNITS[s.name][1],
             "meaning": (inspect.getdoc(observation.TERMS[s.name]) or "").splitlines()[0]}
            for s in env.layout
        ],
        "lookahead_steps": list(task.lookahead_steps),
        "lookahead_s": [round(k * body.control_dt, 6) for k in task.lookahead_steps],
        "muscles": list(body.muscle_names),
        "joints": list(body.joint_names),
        "independent_joints": [body.joint_names[j] for j in joints],
        "independent_qpos": env.body_tensors.free_qpos.tolist(),
        "sites": list(body.site_names),
        "site_bodies": body.site_body_ids.tolist(),
        "early_termination": {
            "relative_site_error": thresholds["relative_site_deviation"],
            "root_position_error": thresholds["root_position"],
            "absolute_site_error": thresholds["absolute_site_deviation"],
        },
        "evaluation_rows": ROWS,
        "versions": extra["versions"] | {"mm_torch": mm_torch.__version__},
        "licence": list(LICENCES),
    }


def _action_map(recipe: Recipe, env: MimicEnv) -> str:
    action = recipe.task.action
    spread = "action" if env.drive is None else "action of each joint spread over its muscles"
    feedback = bool(action.stiffness or action.damping)
    return (
        f"clip(base + {action.scale:g} * {spread}, {action.low:g}, 1); action = mean + std * noise"
        + (" + reflexes(joint_error, joint_velocity_error, balance)" if action.reflexes else
           f" + {action.stiffness:g} * joint_error + {action.damping:g} * joint_velocity_error" if feedback else "")
        + ("; base = the reference's activations one control step ahead" if action.base == "reference" else "")
        + (f" where there are any, else {action.offset:g}" if action.base == "reference" else
           f"; base = {action.offset:g}")
        + (f"; the observation, and with it the mean, is held for {action.hold_steps} control steps"
           if action.hold_steps > 1 else "")
    )
