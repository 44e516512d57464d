from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from mm_torch.nets.heads import ActorCritic
from mm_torch.nets.moe import MixtureOptions, SoftMixture, mixture_report

WIDE = (1024,) * 12 + (2048,) * 3 + (1024,)
RESNET = (1408, *(2688,) * 5, 1408, 768, 384)
MOE_BODY = MixtureOptions(experts=16, layers=(3,), temperature=0.5)
MOE_ARMS = MixtureOptions(experts=6, layers=(2,), temperature=0.7)

SIZES = [
    ("fullbody", 2418, 354, "plain", (1024,) * 16, None, 18_617_028, 18_254_849),
    ("fullbody_gmr", 2418, 354, "plain", WIDE, None, 27_014_852, 26_652_673),
    ("fullbody_resnet", 2418, 354, "residual", RESNET, None, 50_007_880, 49_871_621),
    ("fullbody_demo", 2418, 354, "plain", (1024,) * 5, None, 7_048_900, 6_686_721),
    ("fullbody_moe", 2418, 354, "moe", (1024,) * 5, MOE_BODY, 22_817_492, 22_455_313),
    ("bimanual", 701, 126, "plain", (1024,) * 4, None, 4_005_116, 3_876_865),
    ("bimanual_gmr", 1597, 126, "plain", WIDE, None, 25_940_220, 25_811_969),
    ("bimanual_moe", 701, 126, "moe", (1024,) * 4, MOE_ARMS, 9_262_338, 9_134_087),
]


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "obs", "act", "kind", "hidden", "mixture", "actor", "critic"), SIZES)
def test_parameter_counts(
    name: str, obs: int, act: int, kind: Any, hidden: tuple[int, ...], mixture: Any, actor: int, critic: int
) -> None:
    with torch.device("meta"):
        model = ActorCritic(obs, act, kind=kind, hidden=hidden, init_std=3.0, mixture=mixture)
    assert size(model.actor) + model.log_std.numel() == actor, name  # the published counts put log_std in the actor
    assert size(model.critic) == critic, name


def small(kind: str, **options: Any) -> ActorCritic:
    torch.manual_seed(0)
    mixture = MixtureOptions(experts=3, layers=(1,)) if kind == "moe" else None
    settings = {"hidden": (12, 10, 8), "init_std": 0.5, "mixture": mixture} | options
    return ActorCritic(7, 4, kind=kind, **settings)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["plain", "residual", "moe"])
def test_scripted_actor_equals_eager(kind: str) -> None:
    model = small(kind)
    scripted = torch.jit.script(model.actor)
    x = torch.randn(5, 7)
    torch.testing.assert_close(scripted(x), model.policy(x)[0], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("kind", ["plain", "residual", "moe"])
def test_leading_axes_are_batch_axes(kind: str) -> None:
    model = small(kind)
    x = torch.randn(2, 5, 7)
    assert model.policy(x)[0].shape == (2, 5, 4) and model.value(x).shape == (2, 5)
    torch.testing.assert_close(model.policy(x)[0][1], model.policy(x[1])[0])


def test_initial_gains() -> None:
    model = small("residual", hidden=(12, 8, 8, 8, 6))
    block = model.actor.blocks[0]
    for layer, gain in ((block.dense_0, math.sqrt(2.0)), (block.dense_1, 0.01), (block.skip, 1.0)):
        singular = torch.linalg.svdvals(layer.weight)
        torch.testing.assert_close(singular, torch.full_like(singular, gain), rtol=1e-4, atol=1e-5)
    for tower in (model.actor, model.critic):
        assert torch.linalg.svdvals(tower.output.weight).max().item() == pytest.approx(0.01, rel=1e-4)
        assert not tower.output.bias.any()
    assert isinstance(model.actor.blocks[1].skip, nn.Identity)
    assert torch.sigmoid(block.gate).item() == pytest.approx(0.1192, abs=1e-4)
    assert model.log_std.exp().tolist() == pytest.approx([0.5] * 4)


def test_density_and_entropy_equal_torch_distributions() -> None:
    model = small("plain")
    mean, log_std = model.policy(torch.randn(6, 7))
    normal = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp().expand_as(mean)), 1)
    action = normal.sample()
    torch.testing.assert_close(model.log_prob(mean, log_std, action), normal.log_prob(action))
    torch.testing.assert_close(model.entropy(log_std).expand(6), normal.entropy())
    with pytest.raises(ValueError, match="differ in shape"):
        model.log_prob(mean, log_std, action[:, :1])


def test_fixed_deviation_gets_no_gradient() -> None:
    model = small("plain", learnable_std=False)
    mean, log_std = model.policy(torch.randn(6, 7))
    model.log_prob(mean, log_std, torch.zeros_like(mean)).sum().backward()
    assert model.log_std.grad is None and "log_std" in model.state_dict()


def test_mixture_equals_a_loop_over_its_experts() -> None:
    torch.manual_seed(1)
    layer = SoftMixture(6, 8, options=MixtureOptions(experts=3, layers=(0,), temperature=0.5), activation="silu")
    nn.init.normal_(layer.gate.weight)
    nn.init.normal_(layer.output.bias)
    x = torch.randn(9, 6)
    gates = torch.softmax(layer.gate(x) / 0.5, -1)
    expected = torch.zeros(9, 8)
    for e in range(3):
        inner = nn.functional.silu(x @ layer.hidden.weight[e].T + layer.hidden.bias[e])
        expected += gates[:, e : e + 1] * (inner @ layer.output.weight[e].T + layer.output.bias[e])
    torch.testing.assert_close(layer(x), expected)


def test_balance_loss_is_least_at_equal_use_and_trains_the_gate() -> None:
    equal = mixture_report([torch.full((4, 4), 0.25)], 0.01).balance_loss
    one = mixture_report([torch.eye(4)[:1].expand(4, 4)], 0.01).balance_loss
    assert equal.item() == pytest.approx(0.01) and one.item() == pytest.approx(0.04)
    model = small("moe")
    model.evaluate(torch.randn(5, 7)).auxiliary_loss.backward()
    assert model.actor.layers[1].gate.weight.grad.abs().sum() > 0.0


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("plain", {"hidden": ()}, "hidden is empty"),
        ("plain", {"mixture": MOE_ARMS}, "only for it"),
        ("moe", {"mixture": None}, "give options for 'moe'"),
        ("moe", {"mixture": MixtureOptions(experts=2, layers=(9,))}, "must name layers 0 to 2"),
        ("wide", {}, "network kind 'wide'"),
        ("plain", {"activation": "relu6"}, "activation 'relu6'"),
        ("plain", {"init_std": 0.0}, "init_std is 0.0"),
    ],
)
def test_bad_settings_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(kind, **options)
