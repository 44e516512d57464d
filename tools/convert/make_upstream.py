"""The original's checkpoints, observations and rollouts: ``make_upstream.py OUT BODY=TRAJECTORY ... [fixture=FILE]``.

It runs in an environment of its own, which needs no GPU and no account:

  python -m venv upstream && upstream/bin/pip install musclemimic==0.1.0
  upstream/bin/python tools/convert/make_upstream.py OUT myo_fullbody=walk.npz myo_bimanual=wave.npz

TRAJECTORY is a Trajectory file of the original at 100 Hz (``tools/retarget.py --write-trajectory`` writes such files).
For each case of that body, OUT gets ``CASE/checkpoint_7`` as the original's training writes it, with small networks and
random weights, and ``CASE.npz`` (N observations, T control steps):

  observation, mean, value       (N, O), (N, A), (N,)  its environment's under random actions, and its networks' answers,
                                                       given one batch; ``two_...``: the same of two rows alone
  roll_KIND_qpos, qvel, act      (T+1, Q | V | M)      its CPU environment under the mean action, from frame 0 of the clip
  roll_KIND_observation, action  (T, O), (T, A)        what its policy saw and did in each step

KIND is ``stale``, the environment as released but for the solver options, which are those of its training; or ``fresh``,
where kinematics is brought up to date before it is observed (the original observes that of 2 ms earlier).

``fixture=FILE.npz`` packs the smallest case: each file of its checkpoint as bytes, with two of the observations and answers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hydra
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from loco_mujoco.task_factories import CustomDatasetConf, TaskFactory
from loco_mujoco.trajectory import Trajectory
from musclemimic.algorithms import PPOJax
from musclemimic.algorithms.common.checkpoint_manager import CheckpointMetadata, create_checkpoint_manager
from musclemimic.algorithms.common.dataclasses import TrainState
from omegaconf import OmegaConf

UPDATE = 7
FIXTURE = "bimanual_one"
ROWS, WARM_UP, STEPS = 64, 128, 20
SAMPLES = 2.0e9  # of the statistics: a released policy has seen as many
# case to body, package, configuration and what makes its networks small
CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "fullbody_plain": ("myo_fullbody", "fullbody", "conf_fullbody", {"hidden": [48, 40]}),
    "fullbody_residual": (
        "myo_fullbody", "fullbody", "conf_fullbody_gmr_resnet", {"hidden": [40, 48, 56, 48, 24]},
    ),
    "fullbody_moe": (
        "myo_fullbody", "fullbody", "conf_fullbody_moe",
        {"hidden": [40, 48, 32], "moe_config.moe_at_layers": [1], "moe_config.num_experts": 3},
    ),
    "bimanual_plain": ("myo_bimanual", "bimanual", "conf_bimanual_gmr", {"hidden": [48, 40]}),
    "bimanual_one": ("myo_bimanual", "bimanual", "conf_bimanual", {"hidden": [3]}),
}


def configuration(package: str, name: str, small: dict[str, Any]) -> Any:
    """A packaged configuration with small networks."""
    with hydra.initialize_config_module(package, version_base=None):
        config = hydra.compose(name)
    OmegaConf.set_struct(config, False)
    for key, value in small.items():
        names = ("actor_hidden_layers", "critic_hidden_layers") if key == "hidden" else (key,)
        for target in names:
            OmegaConf.update(config.experiment, target, value)
    return config


def environment(config: Any, trajectory: Path, fresh: bool = False) -> Any:
    """The original's CPU environment with the solver options of its training; every episode starts at frame 0."""
    params = OmegaConf.to_container(config.experiment.env_params, resolve=True)
    for gpu_only in ("mjx_backend", "num_envs"):
        params.pop(gpu_only, None)
    params |= {
        "env_name": params["env_name"].replace("Mjx", ""), "timestep": 0.002, "n_substeps": 5, "headless": True,
        "th_params": {"random_start": False, "fixed_start_conf": [0, 0]},
    }
    clip = CustomDatasetConf(traj=Trajectory.load(str(trajectory), backend=np))
    env = TaskFactory.get_factory_cls("ImitationFactory").make(custom_dataset_conf=clip, **params)
    env._model.opt.iterations, env._model.opt.ls_iterations = 4, 8
    env._model.opt.disableflags = mujoco.mjtDisableBit.mjDSBL_EULERDAMP
    if fresh:
        released = env._simulation_post_step

        def post_step(model: Any, data: Any, carry: Any) -> Any:
            mujoco.mj_fwdPosition(model, data)
            mujoco.mj_fwdVelocity(model, data)
            return released(model, data, carry)

        env._simulation_post_step = post_step
    return env


def random_observations(env: Any, seed: int) -> np.ndarray:
    """(N, O) observations under random actions, with resets where an episode ends."""
    generator = np.random.default_rng(seed)
    rows, done = [], True
    while len(rows) < WARM_UP:
        if done:
            rows.append(np.asarray(env.reset()))
        action = generator.uniform(-0.5, 0.5, env.info.action_space.shape[0])
        observation, _, _, done, _ = env.step(action)
        rows.append(observation)
    return np.stack(rows[:WARM_UP]).astype(np.float32)


def train_state(agent_conf: Any, observations: np.ndarray, seed: int) -> TrainState:
    """A state as training has it: random weights whose actions are of order one, statistics of the observations."""
    variables = agent_conf.network.init(jax.random.PRNGKey(seed), jnp.zeros(observations.shape[1]))
    generator = np.random.default_rng(seed)

    def shaken(path: Any, leaf: Any) -> jnp.ndarray:
        scale = 0.3 / np.sqrt(leaf.shape[0]) if leaf.ndim > 1 else 0.1
        return jnp.asarray(np.asarray(leaf) + scale * generator.standard_normal(leaf.shape), jnp.float32)

    statistics = {"mean": observations.mean(0), "var": observations.var(0) + 1e-6, "count": np.float32(SAMPLES)}
    run_stats = jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(statistics[path[-1].key]),
                                                 variables["run_stats"])
    return TrainState.create(
        apply_fn=agent_conf.network.apply, params=jax.tree_util.tree_map_with_path(shaken, variables["params"]),
        run_stats=run_stats, tx=agent_conf.tx,
    )


def save(folder: Path, agent_conf: Any, state: TrainState) -> None:
    """Write a checkpoint through the original's own manager."""
    experiment = agent_conf.config.experiment
    manager = create_checkpoint_manager(str(folder), async_save=False)
    steps = experiment.num_minibatches * experiment.update_epochs
    manager.save_checkpoint(UPDATE, agent_conf, PPOJax._agent_state(train_state=state), CheckpointMetadata(
        step=UPDATE * steps, update_number=UPDATE,
        global_timestep=UPDATE * experiment.num_envs * experiment.num_steps,
        target_global_timestep=experiment.total_timesteps, learning_rate=float(experiment.lr),
        num_envs=experiment.num_envs, num_steps=experiment.num_steps, num_minibatches=experiment.num_minibatches,
        update_epochs=experiment.update_epochs, env_name=experiment.env_params.env_name,
    ))
    manager.close()


def answers(agent_conf: Any, state: TrainState, observations: np.ndarray) -> dict[str, np.ndarray]:
    """Mean action and value of one batch."""
    (policy, value), _ = agent_conf.network.apply(
        {"params": state.params, "run_stats": state.run_stats}, jnp.asarray(observations), mutable=["run_stats"]
    )
    return {"mean": np.asarray(policy.mode()), "value": np.asarray(value)}


def rollout(env: Any, agent_conf: Any, state: TrainState, steps: int) -> dict[str, np.ndarray]:
    """Its policy's mean action in its environment, as its playback does it; statistics move on as there."""
    apply = jax.jit(lambda s, o: agent_conf.network.apply({"params": state.params, "run_stats": s}, o,
                                                          mutable=["run_stats"]))
    record: dict[str, list[np.ndarray]] = {k: [] for k in ("qpos", "qvel", "act", "observation", "action")}

    def keep() -> None:
        for name in ("qpos", "qvel", "act"):
            record[name].append(np.array(getattr(env._data, name)))

    observation, statistics = np.asarray(env.reset(), np.float32), state.run_stats
    keep()
    for _ in range(steps):
        ((policy, _), updates) = apply(statistics, jnp.atleast_2d(observation))
        action, statistics = np.asarray(policy.mode()).reshape(-1), updates["run_stats"]
        record["observation"].append(observation)
        record["action"].append(action)
        observation = np.asarray(env.step(action)[0], np.float32)
        keep()
    return {name: np.stack(values) for name, values in record.items()}


def make(case: str, out: Path, trajectory: Path) -> None:
    """Write checkpoint and numbers of one case."""
    _, package, name, small = CASES[case]
    config = configuration(package, name, small)
    env = environment(config, trajectory)
    seed = list(CASES).index(case)
    seen = random_observations(env, seed)
    agent_conf = PPOJax.init_agent_conf(env, config)
    state = train_state(agent_conf, seen, seed)
    save(out / case, agent_conf, state)
    rows = seen[-ROWS:]
    arrays = {"observation": rows, **answers(agent_conf, state, rows)}
    arrays |= {f"two_{k}": v for k, v in ({"observation": rows[:2]} | answers(agent_conf, state, rows[:2])).items()}
    for kind in ("stale", "fresh"):
        env = environment(config, trajectory, fresh=kind == "fresh")
        arrays |= {f"roll_{kind}_{k}": v for k, v in rollout(env, agent_conf, state, STEPS).items()}
    np.savez(out / f"{case}.npz", **arrays)


def pack(out: Path, target: Path) -> None:
    """Write checkpoint and two observations of the smallest case into one file."""
    folder = out / FIXTURE
    files = {f"file/{p.relative_to(folder).as_posix()}": np.frombuffer(p.read_bytes(), np.uint8)
             for p in sorted(folder.rglob("*")) if p.is_file()}
    with np.load(out / f"{FIXTURE}.npz") as arrays:
        numbers = {name: arrays[f"two_{name}"] for name in ("observation", "mean", "value")}
    np.savez_compressed(target, **files, **numbers)


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    words = dict(a.split("=", 1) for a in arguments if "=" in a)
    fixture = words.pop("fixture", None)
    places = [a for a in arguments if "=" not in a]
    if len(places) != 1 or not words or set(words) - {body for body, *_ in CASES.values()}:
        print((__doc__ or "").strip(), file=sys.stderr)
        return 2
    jax.config.update("jax_default_matmul_precision", "high")
    out = Path(places[0]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    for case, (body, *_) in CASES.items():
        if body in words:
            make(case, out, Path(words[body]).resolve())
            print(f"{case}: {out / case}")
    if fixture:
        pack(out, Path(fixture))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
