from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mm_torch.nets.heads import ActorCritic
from mm_torch.nets.moe import MixtureOptions
from mm_torch.ppo.optim import (
    MuonAdam,
    build_optimiser,
    clip_gradients,
    guarded_step,
    matrix_names,
    orthogonalise,
    orthogonalise_all,
    set_learning_rate,
    skipped_steps,
)


def model(kind: str = "plain") -> ActorCritic:
    torch.manual_seed(0)
    mixture = MixtureOptions(experts=3, layers=(1,)) if kind == "moe" else None
    return ActorCritic(7, 4, kind=kind, hidden=(12, 10), init_std=0.5, mixture=mixture)


def backward(net: ActorCritic, seed: int) -> None:
    x = torch.randn(16, 7, generator=torch.Generator().manual_seed(seed))
    evaluation = net.evaluate(x)
    density = net.log_prob(evaluation.mean, evaluation.log_std, torch.ones_like(evaluation.mean))
    (density.mean() + evaluation.value.square().mean()).backward()


def train(net: ActorCritic, optimiser: MuonAdam, seeds: range) -> None:
    for seed in seeds:
        optimiser.zero_grad()
        backward(net, seed)
        guarded_step(optimiser, 1.0)


def tensors_of(optimiser: MuonAdam) -> list[Tensor]:
    """Everything the optimiser holds or moves, apart from the skip counter."""
    state = [s for entry in optimiser.state.values() for s in entry.values()]
    params = [p.detach() for group in optimiser.param_groups for p in group["params"]]
    return state + params + [group["step"] for group in optimiser.param_groups]


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    batch = torch.randn(4, 16, 40, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalise(batch, steps=5, dtype=torch.float32))
    assert singular.min() > 0.6 and singular.max() < 1.3
    rough = orthogonalise(batch, steps=5, dtype=torch.bfloat16)
    assert rough.dtype is torch.float32
    singular = torch.linalg.svdvals(rough)
    assert singular.min() > 0.6 and singular.max() < 1.3


def test_batching_changes_nothing_and_the_fan_scale_is_out_over_in() -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = [(6, 24), (24, 6), (6, 24), (8, 8), (3, 24, 6), (1, 5)]
    mixed = [torch.randn(shape, generator=generator) for shape in shapes]
    together = orthogonalise_all(mixed, steps=5, dtype=torch.float32)
    for matrix, result in zip(mixed, together, strict=True):
        assert result.shape == matrix.shape
        rows, columns = matrix.shape[-2:]
        for one, out in zip(matrix.reshape(-1, rows, columns), result.reshape(-1, rows, columns), strict=True):
            alone = orthogonalise_all([one], steps=5, dtype=torch.float32)[0]
            torch.testing.assert_close(out, alone, rtol=1e-4, atol=1e-5)
            u, _, vh = torch.linalg.svd(one, full_matrices=False)
            scale = math.sqrt(max(1.0, rows / columns))  # torch weights are (out, in)
            assert ((out / scale) * (u @ vh)).sum().item() == pytest.approx(min(rows, columns), rel=0.35)


def test_adam_group_equals_torch_adamw() -> None:
    ours, theirs = model(), model()
    mine = build_optimiser(ours, kind="adamw", lr=1e-2)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, eps=1e-5, weight_decay=0.0)
    for seed in range(4):
        mine.zero_grad(), reference.zero_grad()
        backward(ours, seed), backward(theirs, seed)
        mine.step(), reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_stacked_experts_are_matrices_and_their_biases_are_not() -> None:
    names = matrix_names(model("moe"))
    assert {"actor.layers.1.hidden.weight", "actor.layers.1.gate.weight", "actor.output.weight"} <= names
    assert not any(name.endswith("bias") or "finishes" in name or name == "log_std" for name in names)


def test_weight_decay_acts_on_matrices_only() -> None:
    net = model()
    optimiser = build_optimiser(net, kind="muon", lr=0.1, weight_decay=0.5)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    for name, p in net.named_parameters():
        factor = 0.95 if name in matrix_names(net) else 1.0
        torch.testing.assert_close(p.detach(), before[name] * factor)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_non_finite_gradient_changes_nothing_but_the_count(kind: Any, bad: float, steps_before: int) -> None:
    net = model()
    optimiser = build_optimiser(net, kind=kind, lr=1e-2, weight_decay=0.1)
    train(net, optimiser, range(steps_before))
    before = [t.clone() for t in tensors_of(optimiser)]
    optimiser.zero_grad()
    backward(net, 9)
    net.actor.output.bias.grad[0] = bad
    report = guarded_step(optimiser, 1.0)
    assert not report.finite and skipped_steps(optimiser).item() == 1
    after = tensors_of(optimiser)
    if steps_before:
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    else:
        assert all(torch.isfinite(t).all() for t in after)
        params = [p for group in optimiser.param_groups for p in group["params"]]
        assert all(torch.equal(p, b) for p, b in zip(params, before[: len(params)], strict=True))
    train(net, optimiser, range(1))
    assert skipped_steps(optimiser).item() == 1
    assert optimiser.param_groups[0]["step"].item() == steps_before + 1


def test_clip_scales_the_global_norm() -> None:
    params = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4))]
    params[0].grad, params[1].grad = torch.full((3,), 2.0), torch.full((4,), -1.0)
    assert clip_gradients(params, 1.0).norm.item() == pytest.approx(4.0)
    assert torch.cat([p.grad for p in params]).norm().item() == pytest.approx(1.0)
    clip_gradients(params, 5.0)
    assert torch.cat([p.grad for p in params]).norm().item() == pytest.approx(1.0)
    for p in params:
        p.grad = torch.zeros_like(p)
    assert clip_gradients(params, 1.0).finite and not params[0].grad.any()


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_resume_equals_uninterrupted(kind: Any) -> None:
    whole, first, second = model("moe"), model("moe"), model("moe")
    optimiser = build_optimiser(whole, kind=kind, lr=1e-2)
    train(whole, optimiser, range(6))

    part = build_optimiser(first, kind=kind, lr=1e-2)
    train(first, part, range(3))
    file = io.BytesIO()
    torch.save({"net": first.state_dict(), "optimiser": part.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second.load_state_dict(saved["net"])
    resumed = build_optimiser(second, kind=kind, lr=123.0)
    resumed.load_state_dict(saved["optimiser"])
    assert resumed.param_groups[0]["lr"].item() == pytest.approx(1e-2)
    train(second, resumed, range(3, 6))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_learning_rate_is_set_in_place_and_acts() -> None:
    net = model()
    optimiser = build_optimiser(net, kind="muon", lr=1e-2)
    cell = optimiser.param_groups[0]["lr"]
    set_learning_rate(optimiser, 0.0)
    assert optimiser.param_groups[0]["lr"] is cell
    before = [p.detach().clone() for p in net.parameters()]
    train(net, optimiser, range(1))
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    set_learning_rate(optimiser, torch.tensor(0.5))
    assert [group["lr"].item() for group in optimiser.param_groups] == [0.5, 0.5]


def test_groups_are_checked() -> None:
    vector, matrix = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"muon takes matrices, got shape \(3,\)"):
        MuonAdam([{"params": [vector], "algorithm": "muon"}], lr=0.1)
    with pytest.raises(ValueError, match="algorithm 'sgd'"):
        MuonAdam([{"params": [matrix], "algorithm": "sgd"}], lr=0.1)
    with pytest.raises(ValueError, match="ns_dtype 'float8'"):
        MuonAdam([{"params": [matrix], "algorithm": "muon"}], lr=0.1, ns_dtype="float8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="optimiser 'sgd'"):
        build_optimiser(nn.Linear(2, 2), kind="sgd", lr=0.1)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_a_step_never_waits_for_the_device() -> None:
    net = model("moe").cuda()
    optimiser = build_optimiser(net, kind="muon", lr=1e-2)
    x = torch.randn(16, 7, device="cuda")
    for index in range(3):
        torch.cuda.set_sync_debug_mode("error" if index else "default")
        try:
            optimiser.zero_grad()
            evaluation = net.evaluate(x)
            (evaluation.mean.square().mean() + evaluation.value.square().mean()).backward()
            guarded_step(optimiser, 1.0)
            set_learning_rate(optimiser, 1e-3)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert skipped_steps(optimiser).item() == 0
