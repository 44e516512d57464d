"""Learning code against numbers frozen from the original implementation (``shared/golden/rl.npz``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mm_torch.motion.sampling import ClipSampler, episode_counts
from mm_torch.nets.heads import ActorCritic, entropy
from mm_torch.nets.moe import MixtureOptions, StackedDense
from mm_torch.nets.normaliser import ObservationNormaliser, RewardNormaliser
from mm_torch.ppo.advantage import generalised_advantage
from mm_torch.ppo.curriculum import RewardCurriculum, TerminationCurriculum
from mm_torch.ppo.loss import normalise_advantage, ppo_loss
from mm_torch.ppo.optim import MuonAdam, build_optimiser, guarded_step, matrix_names, set_learning_rate
from mm_torch.ppo.schedule import learning_rate

GOLDEN = Path(__file__).parents[2] / ".." / "shared" / "golden"
pytestmark = pytest.mark.skipif(not (GOLDEN / "rl.npz").exists(), reason="golden files are not beside this checkout")

NETS = ("mlp_silu_ln", "mlp_tanh_noln", "residual_gated", "softmoe")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "rl.npz") as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="module")
def meta() -> dict[str, Any]:
    return json.loads((GOLDEN / "rl.json").read_text())


def tensors(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    """The arrays below a prefix, keyed by the rest of their path."""
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}


def close(actual: Tensor, expected: Any, tolerance: float = 1e-5) -> None:
    expected = torch.as_tensor(expected)
    assert tuple(actual.shape) == tuple(expected.shape)
    torch.testing.assert_close(
        actual.detach().double(), expected.double(), rtol=tolerance, atol=tolerance, equal_nan=False
    )


def flax_layout(flat: dict[str, Tensor], tower: nn.Module, name: str) -> dict[str, str]:
    """Our parameter name -> flax path of one tower, by the kind of tower that it is."""
    dense = {"weight": "kernel", "bias": "bias"}
    norm = {"weight": "scale", "bias": "bias"}
    paths: dict[str, str] = {}

    def put(ours: str, theirs: str, leaves: dict[str, str]) -> None:
        paths.update({f"{ours}.{a}": f"{theirs}/{b}" for a, b in leaves.items()})

    kind = type(tower).__name__
    if kind == "PlainTower":
        hidden = sum(isinstance(m, nn.Linear) for m in tower.layers)
        for i in range(hidden):
            put(f"layers.{3 * i}", f"{name}/Dense_{i}", dense)
            put(f"layers.{3 * i + 1}", f"{name}/LayerNorm_{i}", norm)
        put("output", f"{name}/Dense_{hidden}", dense)
    elif kind == "ResidualTower":
        for i in range(len(tower.blocks)):
            for j in (0, 1):
                put(f"blocks.{i}.dense_{j}", f"{name}/block{i}_layer{j}_dense", dense)
                put(f"blocks.{i}.norm_{j}", f"{name}/block{i}_layer{j}_ln", norm)
            put(f"blocks.{i}.skip", f"{name}/block{i}_proj", dense)
            paths[f"blocks.{i}.gate"] = f"{name}/res_gate_{i}"
        put("tail.0", f"{name}/tail_dense", dense)
        put("tail.1", f"{name}/tail_ln", norm)
        put("output", f"{name}/output", dense)
    else:
        for i in range(len(tower.layers)):
            put(f"layers.{i}", f"{name}_dense_{i}", dense)
            put(f"layers.{i}.gate", f"{name}_moe_layer_{i}/gate", dense)
            put(f"finishes.{i}.0", f"{name}_ln_{i}", norm)
        put("output", f"{name}_output", dense)
    return {ours: theirs for ours, theirs in paths.items() if theirs in flat}


def flax_tensors(model: ActorCritic, flat: dict[str, Tensor]) -> dict[str, Tensor]:
    """Flax leaves renamed and transposed to this model's state dict; every leaf must be used exactly once."""
    state: dict[str, Tensor] = {"log_std": flat["log_std"]}
    used = {"log_std"}
    for name in ("actor", "critic"):
        tower = getattr(model, name)
        for ours, theirs in flax_layout(flat, tower, name).items():
            state[f"{name}.{ours}"] = flat[theirs].mT if theirs.endswith("kernel") else flat[theirs]
            used.add(theirs)
        for path, module in tower.named_modules():
            if not isinstance(module, StackedDense):
                continue
            layer, part = path.removeprefix("layers.").split(".")
            leaves = [f"{name}_moe_layer_{layer}/expert_{e}_{part}" for e in range(module.weight.shape[0])]
            state[f"{name}.{path}.weight"] = torch.stack([flat[f"{leaf}/kernel"].mT for leaf in leaves])
            state[f"{name}.{path}.bias"] = torch.stack([flat[f"{leaf}/bias"] for leaf in leaves])
            used |= {f"{leaf}/{b}" for leaf in leaves for b in ("kernel", "bias")}
    assert used == set(flat)
    return state


def build(config: dict[str, Any]) -> ActorCritic:
    kind = "residual" if config.get("use_residual") else "plain"
    mixture = None
    if config["cls"] == "SoftMoEActorCritic":
        kind = "moe"
        mixture = MixtureOptions(
            experts=config["num_experts"],
            layers=tuple(config["moe_at_layers"]),
            temperature=config["temperature"],
            balance_weight=config["load_balance_loss_weight"],
        )
    return ActorCritic(
        config["obs_dim"],
        config["action_dim"],
        kind=kind,
        hidden=config["hidden_layer_dims"],
        critic_hidden=config.get("critic_hidden_layer_dims"),
        init_std=config["init_std"],
        learnable_std=config.get("learnable_std", True),
        activation=config["activation"],
        layer_norm=config["use_layernorm"],
        gate_init=config.get("residual_gate_init", -2.0),
        mixture=mixture,
    )


def load_statistics(normaliser: ObservationNormaliser, stats: dict[str, Tensor]) -> None:
    for name in ("mean", "var", "count"):
        getattr(normaliser, name).copy_(next(v for k, v in stats.items() if k.endswith("/" + name)))


def check_statistics(normaliser: ObservationNormaliser, stats: dict[str, Tensor]) -> None:
    for name in ("mean", "var", "count"):
        close(getattr(normaliser, name), next(v for k, v in stats.items() if k.endswith("/" + name)))


@pytest.mark.parametrize("setting", ["default", "alt"])
def test_advantage(arrays: dict[str, np.ndarray], meta: dict[str, Any], setting: str) -> None:
    g = tensors(arrays, "gae/")
    following = torch.cat([g["values"][1:], g["last_value"][None]])
    result = generalised_advantage(
        g["rewards"], g["values"], following, g["absorbing"], g["dones"], **meta["gae"][setting]
    )
    close(result.advantage, g[f"{setting}/advantages"])
    close(result.target, g[f"{setting}/returns"])


@pytest.mark.parametrize("setting", ["default", "alt", "alt_vf"])
def test_loss_and_gradients(arrays: dict[str, np.ndarray], meta: dict[str, Any], setting: str) -> None:
    g = tensors(arrays, "ppo/")
    config = meta["ppo"][setting]
    log_prob = g["log_prob"].clone().requires_grad_()
    value = g["value"].clone().requires_grad_()
    loss = ppo_loss(
        log_prob=log_prob,
        old_log_prob=g["log_prob_old"],
        advantage=normalise_advantage(g["advantages"]),
        value=value,
        old_value=g["value_old"],
        target=g["targets"],
        entropy=g["entropy"],
        clip=config["clip_eps"],
        value_clip=config["clip_eps_vf"] or config["clip_eps"],  # null means the policy's range in the original
        value_weight=config["vf_coef"],
        entropy_weight=config["ent_coef"],
    )
    loss.total.backward()
    expected = tensors(arrays, f"ppo/{setting}/")
    names = {"total": "total_loss", "policy": "actor_loss", "value": "value_loss", "entropy": "entropy"}
    names |= {"kl": "kl_mean", "clip_fraction": "clipped_ratio_frac"}
    names |= {f"ratio_{x}": f"ratio_{x}" for x in ("mean", "std", "min", "max")}
    for ours, theirs in names.items():
        close(getattr(loss, ours), expected[theirs])
    close(log_prob.grad, expected["grad_log_prob"])
    close(value.grad, expected["grad_value"])
    close(normalise_advantage(g["advantages"]), g["normalized_advantages"])


def test_observation_statistics(arrays: dict[str, np.ndarray]) -> None:
    normaliser = ObservationNormaliser(7, clip=None)
    normaliser.update(torch.zeros(1, 7))
    check_statistics(normaliser, tensors(arrays, "rms/after_init"))
    for index in range(4):
        batch = tensors(arrays, f"rms/batch{index}/")
        close(normaliser.upstream_forward(batch["x"]), batch["y"])
        check_statistics(normaliser, tensors(arrays, f"rms/batch{index}"))


def test_reward_statistics(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    g = tensors(arrays, "rewnorm/")
    normaliser = RewardNormaliser(5, meta["rewnorm"]["gamma"], upstream=True)
    for t in range(30):
        normaliser.update(g["reward"][t], g["done"][t])
        close(normaliser(g["reward"][t]), g["normalized"][t])
        close(normaliser.returns, g["return_val"][t])
        close(normaliser.mean[0], g["mean"][t])
        close(normaliser.var[0], g["var"][t])
        close(normaliser.count, g["count"][t])


@pytest.mark.parametrize("net", NETS)
def test_network(arrays: dict[str, np.ndarray], meta: dict[str, Any], net: str) -> None:
    g = tensors(arrays, f"net/{net}/")
    model = build(meta["net"][net])
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    model.load_state_dict(flax_tensors(model, tensors(arrays, f"net/{net}/params/")))
    normaliser = ObservationNormaliser(11, clip=None)
    load_statistics(normaliser, tensors(arrays, f"net/{net}/init_run_stats/"))

    obs = torch.from_numpy(arrays["net/obs"])
    seen = normaliser.upstream_forward(obs)
    evaluation = model.evaluate(seen)
    close(evaluation.mean, g["mean"])
    close(evaluation.value, g["value"])
    close(evaluation.log_std.exp().expand(9, -1), g["std"])
    close(model.log_prob(evaluation.mean, evaluation.log_std, torch.from_numpy(arrays["net/action"])), g["log_prob"])
    close(entropy(evaluation.log_std).expand(9), g["entropy"])
    check_statistics(normaliser, tensors(arrays, f"net/{net}/run_stats_after/"))
    torch.testing.assert_close(model.policy(seen)[0], evaluation.mean)
    torch.testing.assert_close(model.value(seen), evaluation.value)

    seen = normaliser.upstream_forward(obs[:3] * 0.5)
    close(model.policy(seen)[0], g["mean_2"])
    close(model.value(seen), g["value_2"])
    check_statistics(normaliser, tensors(arrays, f"net/{net}/run_stats_after_2/"))

    names = {
        "balance_loss": "load_balance_loss",
        "gate_entropy": "gate_entropy",
        "utilisation_variance": "expert_utilization_var",
        "top2_mass": "top2_expert_usage",
        "gate_std": "gate_weights_std",
    }
    for tower, report in evaluation.mixtures.items():
        for ours, theirs in names.items():
            close(getattr(report, ours), g[f"metrics/{tower}/layer_1_metrics/{theirs}"])
    if net == "softmoe":
        assert set(evaluation.mixtures) == {"actor", "critic"}
        close(evaluation.auxiliary_loss, g["metrics/total_moe_loss"])
    else:
        assert evaluation.auxiliary_loss == 0.0 and not evaluation.mixtures


def minibatch(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> tuple[ActorCritic, Any]:
    """The golden network and a function that computes its loss on the golden minibatch."""
    model = build(meta["net"]["mlp_silu_ln"])
    model.load_state_dict(flax_tensors(model, tensors(arrays, "mb/params/")))
    normaliser = ObservationNormaliser(11, clip=None)
    load_statistics(normaliser, tensors(arrays, "mb/run_stats/"))
    g = tensors(arrays, "mb/")
    seen = normaliser.upstream_forward(g["obs"])

    def loss() -> Any:
        evaluation = model.evaluate(seen)
        return ppo_loss(
            log_prob=model.log_prob(evaluation.mean, evaluation.log_std, g["action"]),
            old_log_prob=g["log_prob"],
            advantage=normalise_advantage(g["adv"]),
            value=evaluation.value,
            old_value=g["value"],
            target=g["target"],
            entropy=model.entropy(evaluation.log_std),
            auxiliary=evaluation.auxiliary_loss,
            clip=meta["mb"]["clip_eps"],
            value_clip=meta["mb"]["clip_eps_vf"],
            value_weight=meta["mb"]["vf_coef"],
            entropy_weight=meta["mb"]["ent_coef"],
        )

    return model, loss


def test_minibatch_gradients(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    model, loss_of = minibatch(arrays, meta)
    loss = loss_of()
    loss.total.backward()
    for ours, theirs in (("total", "total_loss"), ("policy", "actor_loss"), ("value", "value_loss"), ("kl", "kl")):
        close(getattr(loss, ours), arrays[f"mb/{theirs}"])
    expected = flax_tensors(model, tensors(arrays, "mb/grads/"))
    for name, parameter in model.named_parameters():
        close(parameter.grad, expected[name])


def golden_optimiser(model: ActorCritic, config: dict[str, Any]) -> MuonAdam:
    if config["optimizer_type"] == "muon":
        return build_optimiser(model, kind="muon", lr=config["lr"], weight_decay=config["weight_decay"])
    built = build_optimiser(model, kind="adamw", lr=config["lr"], weight_decay=config["weight_decay"])
    for group in built.param_groups:  # the original decays vectors too
        group["weight_decay"] = config["weight_decay"]
    return built


@pytest.mark.parametrize("name", ["muon_fullbody", "muon_bimanual", "adamw"])
def test_optimiser_steps(arrays: dict[str, np.ndarray], meta: dict[str, Any], name: str) -> None:
    config = meta["opt"][name]
    model, loss_of = minibatch(arrays, meta)
    optimiser = golden_optimiser(model, config)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    schedule = "linear" if config["anneal_lr"] else "constant"
    for count in range(3):
        update = count // (config["num_minibatches"] * config["update_epochs"])
        set_learning_rate(optimiser, learning_rate(schedule, config["lr"], update, config["num_updates"]))
        optimiser.zero_grad()
        loss_of().total.backward()
        report = guarded_step(optimiser, config["max_grad_norm"])
        if count == 0:
            close(report.norm, arrays["mb/grad_global_norm"])
        if count in (0, 2):
            expected = flax_tensors(model, tensors(arrays, f"mb/opt/{name}/params_step{count + 1}/"))
            for key, parameter in model.named_parameters():
                close(parameter, expected[key], 1e-5)
                moved, wanted = parameter - start[key], expected[key] - start[key]  # the step itself, not the weight
                torch.testing.assert_close(moved, wanted, rtol=5e-3, atol=2e-6)
    assert matrix_names(model) == {n for n, p in model.named_parameters() if p.dim() == 2}


def test_schedules(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    config = meta["sched"]
    per_update = config["num_minibatches"] * config["update_epochs"]
    for name, schedule, warmup in (
        ("linear", "linear", None),
        ("warmup_cosine", "warmup_cosine", None),
        ("warmup_cosine_w7", "warmup_cosine", 7),
    ):
        for count, expected in zip(arrays["sched/count"], arrays[f"sched/{name}"], strict=True):
            actual = learning_rate(
                schedule,
                config["lr"],
                int(count) // per_update,
                config["num_updates"],
                warmup_updates=warmup,
                min_ratio=config["min_lr_ratio"],
            )
            assert actual == pytest.approx(float(expected), rel=1e-5, abs=1e-12)


def test_termination_curriculum(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    config = meta["curr"]
    curriculum = TerminationCurriculum(
        initial=config["init_threshold"],
        minimum=config["min_threshold"],
        low=config["low_band"],
        high=config["high_band"],
        factor=config["adjust_factor"],
        patience=config["consecutive_k"],
        smoothing=config["ema_alpha"],
    )
    for index, rate in enumerate(torch.from_numpy(arrays["curr/rate"])):
        curriculum.update(rate, torch.tensor(1.0))
        close(curriculum.threshold, arrays["curr/threshold"][index])
        close(curriculum.average, arrays["curr/ema"][index])


def test_reward_curriculum(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    config = meta["rcurr"]
    terms = ("qvel_w", "root_vel_w")
    curriculum = RewardCurriculum(
        {term: config[f"{term}_sum_init"] for term in terms},
        {term: config[f"{term}_sum_max"] for term in terms},
        threshold=config["term_rate_threshold"],
        growth=config["eta"],
        patience=config["consecutive_k"],
        smoothing=config["ema_alpha"],
    )
    for index, rate in enumerate(torch.from_numpy(arrays["curr/rate"])):
        curriculum.update(rate, torch.tensor(1.0))
        close(curriculum.average, arrays["rcurr/ema"][index])
        for term in terms:
            close(curriculum.weight(term), arrays[f"rcurr/{term}"][index])


def test_adaptive_sampling(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    g, config = tensors(arrays, "adapt/"), meta["adapt"]
    sampler = ClipSampler(
        6,
        floor=config["floor_mix"],
        power=config["alpha"],
        smoothing=config["beta"],
        prior_done=config["ema_done_init"],
        prior_early=config["ema_early_init"],
    )
    done_counts, early_counts = episode_counts(g["traj_no"], g["done"], g["absorbing"], 6)
    close(done_counts, g["done_counts"])
    close(early_counts, g["early_counts"])
    sampler.update(done_counts, early_counts)
    close(sampler.done_average, g["ema_done"])
    close(sampler.early_average, g["ema_early"])
    close(sampler.rates(), g["rate_hat"])
    close(sampler.weights(), g["weights"])
