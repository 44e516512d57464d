"""Settings of MuscleMimic as a recipe of ours under ``compat=upstream``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from mm_torch.callbacks.checkpoint import CheckpointError
from mm_torch.config.load import load_recipe
from mm_torch.config.schema import Recipe
from tools.convert.orbax_directory import UpstreamCheckpoint

log = logging.getLogger(__name__)

CONTROL_DT = 0.01  # s
# its groups of motions to the files of recipes/splits that list them
SPLITS = {
    "KIT_KINESIS_TRAINING_MOTIONS": ("kit_kinesis_train",), "KIT_KINESIS_TESTING_MOTIONS": ("kit_kinesis_test",),
    "KIT_KINESIS_TRANSITION_TRAINING_MOTIONS": ("kit_kinesis_train", "amass_transition"),
    "AMASS_TRANSITION_MOTIONS": ("amass_transition",), "AMASS_BIMANUAL_TRAIN_MOTIONS": ("amass_bimanual_train",),
    "AMASS_BIMANUAL_TEST_MOTIONS": ("amass_bimanual_test",),
}


@dataclass(frozen=True)
class Task:
    """One of the original's two environments: recipe, what its policy must see, and names of its reward and ends."""

    recipe: str
    seen: dict[str, Any]
    terms: dict[str, tuple[str, ...]]
    ends: dict[str, str]


SHARED_TERMS = {
    "qpos_w_sum": ("upstream_qpos",), "qvel_w_sum": ("upstream_qvel",), "rpos_w_sum": ("site_position",),
    "rquat_w_sum": ("upstream_rquat",), "rvel_w_sum": ("upstream_rvel_rot", "upstream_rvel_lin"),
}
TASKS = {
    "MyoFullBody": Task(
        "fullbody_generalist",
        {
            "env_params.goal_type": "GoalTrajMimic", "env_params.goal_params.use_concise_lookahead": True,
            **dict.fromkeys((f"env_params.enable_muscle_{name}_observations"
                             for name in ("length", "velocity", "force", "excitation", "activation")), True),
            "env_params.enable_touch_sensor_observations": True,
        },
        SHARED_TERMS | {"root_pos_w_sum": ("root_position",), "root_vel_w_sum": ("upstream_root_velocity",)},
        {"mean_site_deviation_threshold": "relative_site_deviation", "root_deviation_threshold": "root_position",
         "root_orientation_threshold": "root_rotation"},
    ),
    "MyoBimanualArm": Task(
        "bimanual_generalist",
        {
            "env_params.goal_type": "GoalBimanualTrajMimic", "env_params.goal_params.use_concise_lookahead": False,
            **dict.fromkeys((f"env_params.enable_muscle_{name}_observations" for name in ("length", "velocity",
                                                                                          "excitation")), False),
            **dict.fromkeys((f"env_params.enable_muscle_{name}_observations" for name in ("force", "activation")), True),
        },
        SHARED_TERMS,
        {"max_site_deviation": "absolute_site_deviation"},
    ),
}
# what else the policy's sight and reach depend on, and the only value that we know; left out there means the same
FIXED: dict[str, Any] = {
    "env_params.goal_params.enable_motion_phase": True, "env_params.control_type": "DefaultControl",
    "env_params.control_params": {}, "len_obs_history": 1, "actor_obs_group": None, "critic_obs_group": None,
    "n_seeds": 1, "activation": "silu", "use_layernorm": True, "layernorm_eps": 1e-5, "residual_type": "gated",
    "moe_config.apply_moe_to": "both",
}
# what only training depends on and has no counterpart under this name
UNUSED: dict[str, Any] = {
    "env_params.reward_params.use_mean_exp_reward": False, "env_params.reward_params.action_rate_coeff": 0.0,
    "adaptive_termination.enabled": False, "reward_curriculum.enabled": False, "adaptive_sampling.enabled": False,
}
# theirs to ours, as they are
SAME = {
    "num_envs": "num_envs", "total_timesteps": "total_steps", "env_params.horizon": "task.horizon_steps",
    "env_params.reward_params.activation_energy_coeff": "task.penalty.activation_energy",
    "init_std": "net.init_std", "learnable_std": "net.learnable_std", "moe_config.temperature": "net.moe.temperature",
    "moe_config.load_balance_loss_weight": "net.moe.loss_weight", "num_steps": "ppo.rollout_steps",
    "num_minibatches": "ppo.minibatches", "update_epochs": "ppo.epochs", "gamma": "ppo.gamma", "gae_lambda": "ppo.lam",
    "clip_eps": "ppo.clip", "clip_eps_vf": "ppo.value_clip", "vf_coef": "ppo.value_weight",
    "ent_coef": "ppo.entropy_weight", "max_grad_norm": "ppo.max_grad_norm", "normalize_env": "ppo.normalise_reward",
    "optimizer_type": "ppo.optimiser.kind", "lr": "ppo.optimiser.lr", "min_lr_ratio": "ppo.optimiser.min_ratio",
}


def recipe_of(checkpoint: UpstreamCheckpoint, net: dict[str, Any]) -> Recipe:
    """The recipe under which a checkpoint's policy sees, acts and is rewarded as it was there.

    Args:
        checkpoint: as read.
        net: settings ``net.*``, from ``network_of``.

    Returns:
        The resolved recipe; its clips are the built-in ones.

    Raises:
        CheckpointError: an environment, observation, action map or network that we have not.
    """
    path, experiment = checkpoint.path, checkpoint.experiment
    name = str(_get(experiment, "env_params.env_name", "(none)"))
    task = TASKS.get(name.removeprefix("Mjx"))
    if task is None:
        raise CheckpointError(f"{path}: environment {name} is not known; known are {', '.join(TASKS)}")
    for key, wanted in (FIXED | task.seen).items():
        found = _get(experiment, key, wanted)
        if found != wanted:
            raise CheckpointError(f"{path}: {key}={found}, only {wanted} is known; such a policy sees, acts or computes "
                                  "otherwise and cannot be taken over")
    dt = _get(experiment, "env_params.timestep", 0.002) * _get(experiment, "env_params.n_substeps", 5)
    if abs(dt - CONTROL_DT) > 1e-9:
        raise CheckpointError(f"{path}: control step of {dt:g} s, here {CONTROL_DT:g} s; such a policy cannot be taken over")
    if ignored := [f"{k}={_get(experiment, k, v)}" for k, v in UNUSED.items() if _get(experiment, k, v) != v]:
        log.warning("%s: not taken over, which matters for fine-tuning alone: %s", path, ", ".join(ignored))
    words = _settings(experiment, task) | {f"net.{k}": v for k, v in net.items()}
    return load_recipe(
        [f"recipe={task.recipe}", "profile=cuda", "compat=upstream", *(f"{k}={_word(v)}" for k, v in words.items())],
        cuda_available=True,
    )


def _settings(experiment: dict[str, Any], task: Task) -> dict[str, Any]:
    """Keys of our schema and their values."""
    found = {ours: _get(experiment, theirs, None) for theirs, ours in SAME.items()}
    goal = "env_params.goal_params"
    ahead, stride = _get(experiment, f"{goal}.n_step_lookahead", 1), _get(experiment, f"{goal}.n_step_stride", 1)
    found["task.lookahead_steps"] = [stride * k for k in range(ahead)]
    found["body.fingers"] = not _get(experiment, "env_params.disable_fingers", True)
    for theirs, ours in task.terms.items():
        weight = _get(experiment, f"env_params.reward_params.{theirs}", None)
        found |= {f"task.reward.{term}.weight": weight for term in ours}
    for theirs, ours in task.ends.items():
        found[f"task.termination.{ours}"] = _get(experiment, f"env_params.terminal_state_params.{theirs}", None)
    kind = _get(experiment, "lr_schedule_type", "linear")
    found["ppo.optimiser.schedule"] = kind if _get(experiment, "anneal_lr", False) else "constant"
    decay = "muon_config.weight_decay" if _get(experiment, "optimizer_type", "adamw") == "muon" else "weight_decay"
    found["ppo.optimiser.weight_decay"] = _get(experiment, decay, None)
    return {key: value for key, value in found.items() if value is not None}


def trained_on(experiment: dict[str, Any]) -> str:
    """The motions that a policy was trained on, in words."""
    conf = _get(experiment, "task_factory.params.amass_dataset_conf", {})
    group = _get(conf, "dataset_group", None)
    if group is None:
        return ", ".join(map(str, _get(conf, "rel_dataset_path", []))) or "unnamed motions"
    files = " and ".join(f"recipes/splits/{name}.txt" for name in SPLITS.get(group, ()))
    return f"{group} ({files})" if files else str(group)


def _get(experiment: dict[str, Any], key: str, default: Any) -> Any:
    """A setting by its dotted key; what is missing or null there is the default."""
    value: Any = experiment
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return default if value is None else value


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")

