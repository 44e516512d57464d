"""Muon for weight matrices and Adam for the rest, in one optimiser that never waits for the device.

``torch.optim.Muon`` shares the polynomial but not the rest: it runs in bfloat16 only, has no bias correction, sums its
momentum instead of averaging it, and takes no vectors. The formulas here are those of optax 0.2.8, which trained the
published policies. Matrices of one shape are orthogonalised together by batched products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

OptimiserKind = Literal["muon", "adamw"]
NsDtype = Literal["float32", "bfloat16"]

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Quintic of Newton-Schulz, chosen for a steep slope at zero."""
MUON_EPSILON = 1e-8
ADAMW_EPSILON = 1e-5
NS_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class GradientError(RuntimeError):
    """Gradients stay non-finite; the message names the count, the dump and the remedy."""


class ClipReport(NamedTuple):
    """Result of clipping one set of gradients.

    ===========  =======================================================  ==
    ``norm``     global norm before clipping, may be inf or nan           ()
    ``finite``   bool; every gradient entry, and the norm, is finite      ()
    ===========  =======================================================  ==
    """

    norm: Tensor
    finite: Tensor


def orthogonalise(matrices: Tensor, *, steps: int, dtype: torch.dtype) -> Tensor:
    """Replace the singular values of each matrix by values near 1.

    ``X <- X / (|X|_F + 1e-8)``, then ``steps`` times ``X <- a X + (b A + c A A) X`` with ``A = X X^T``.

    Args:
        matrices: (K, r, c) with r <= c, which keeps ``A`` small.
        steps: Newton-Schulz steps.
        dtype: Precision of the products.

    Returns:
        (K, r, c) in the input's dtype.

    Source: Jordan et al. (2024), Muon; optax 0.2.8 ``orthogonalize_via_newton_schulz``, Frobenius preconditioning.
    """
    a, b, c = NS_COEFFICIENTS
    norm = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True)
    x = (matrices / (norm + MUON_EPSILON)).to(dtype)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.to(matrices.dtype)


def orthogonalise_all(matrices: list[Tensor], *, steps: int, dtype: torch.dtype) -> list[Tensor]:
    """Orthogonalise matrices of mixed shapes, one batch per shape.

    Newton-Schulz commutes with transposition, so (r, c) and (c, r) share a batch. A (E, r, c) entry is E matrices.

    Args:
        matrices: Each (r, c) or (E, r, c).
        steps: Newton-Schulz steps.
        dtype: Precision of the products.

    Returns:
        Same shapes, same order, each scaled by ``sqrt(max(1, r / c))`` (fan out over fan in of a torch weight).
    """
    wide = [m.mT if m.shape[-2] > m.shape[-1] else m for m in matrices]
    buckets: dict[tuple[int, int], list[int]] = {}
    for index, matrix in enumerate(wide):
        buckets.setdefault((matrix.shape[-2], matrix.shape[-1]), []).append(index)
    results: list[Tensor] = list(matrices)
    for (rows, columns), members in buckets.items():
        stacks = [wide[index].reshape(-1, rows, columns) for index in members]
        batch = orthogonalise(torch.cat(stacks), steps=steps, dtype=dtype)
        for index, part in zip(members, batch.split([s.shape[0] for s in stacks]), strict=True):
            shaped = part.reshape(wide[index].shape)
            fan_out, fan_in = matrices[index].shape[-2:]
            oriented = shaped.mT if fan_out > fan_in else shaped
            results[index] = oriented * math.sqrt(max(1.0, fan_out / fan_in))
    return results


class MuonAdam(torch.optim.Optimizer):
    """Muon and Adam parameter groups behind one ``step``.

    Each group is a dict with ``algorithm`` "muon" or "adam"; the constructor's arguments are the defaults.

    * muon: ``m = beta m + (1 - beta) g``; ``u = beta m / (1 - beta^(t+1)) + (1 - beta) g / (1 - beta^t)``;
      ``p -= lr (sqrt(max(1, fan_out / fan_in)) NS(u) + weight_decay p)``.
    * adam: the same mixture with ``beta1`` where ``nesterov`` (NAdam), else ``m / (1 - beta1^t)``;
      ``p -= lr (u / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p)``.

    The learning rate is a float32 scalar tensor on the device, so that it can be set and adapted without a
    synchronisation; ``set_learning_rate`` writes it. State per parameter: ``exp_avg`` and, for adam, ``exp_avg_sq``.
    State per group: ``step``, the steps taken, and ``skipped``, those left out, int64 scalars.

    Args:
        groups: Parameter groups with ``params`` and ``algorithm``.
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
        beta: Momentum of muon groups.
        betas: Moment decays of adam groups.
        eps: Added to the denominator of adam groups.
        nesterov: Whether adam groups use the NAdam mixture.
        ns_steps: Newton-Schulz steps of muon groups.
        ns_dtype: Precision of the Newton-Schulz products.

    Raises:
        ValueError: A group's algorithm or ``ns_dtype`` is unknown, or a muon parameter is not a matrix.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 0.0,
        beta: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = MUON_EPSILON,
        nesterov: bool = True,
        ns_steps: int = 5,
        ns_dtype: NsDtype = "float32",
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "beta": beta,
            "betas": tuple(betas),
            "eps": eps,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "ns_dtype": ns_dtype,
        }
        super().__init__(groups, defaults)
        for group in self.param_groups:
            self._check_group(group)
            device = group["params"][0].device
            group["lr"] = torch.tensor(lr, dtype=torch.float32, device=device)
            group["step"] = torch.zeros((), dtype=torch.int64, device=device)
            group["skipped"] = torch.zeros((), dtype=torch.int64, device=device)

    @staticmethod
    def _check_group(group: dict[str, Any]) -> None:
        """Refuse a group that ``step`` could not run."""
        if group.get("algorithm") not in ("muon", "adam"):
            raise ValueError(f"group algorithm {group.get('algorithm')!r} is not known; choose muon or adam")
        if group["ns_dtype"] not in NS_DTYPES:
            raise ValueError(f"ns_dtype {group['ns_dtype']!r} is not known; choose one of {sorted(NS_DTYPES)}")
        if group["algorithm"] == "muon":
            for p in group["params"]:
                if p.dim() not in (2, 3):
                    raise ValueError(f"muon takes matrices, got shape {tuple(p.shape)}; put it in an adam group")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore; scalars of the groups move to the device of the group's parameters."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            device = group["params"][0].device
            for name in ("lr", "step", "skipped"):
                group[name] = torch.as_tensor(group[name]).to(device, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, finite: Tensor | None = None) -> Any:
        """Apply the gradients, or leave parameters and state exactly as they are.

        Args:
            closure: Recomputes the loss, as in every torch optimiser.
            finite: () bool on the device; where false, this step changes nothing and is counted as skipped. The
                gradients must then hold finite numbers, which ``clip_gradients`` sees to. None means true.

        Returns:
            The closure's result, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            keep = torch.ones_like(group["step"], dtype=torch.bool) if finite is None else finite
            group["step"].add_(keep)
            group["skipped"].add_(~keep)
            if group["algorithm"] == "muon":
                self._muon_step(group, params, keep)
            else:
                self._adam_step(group, params, keep)
        return loss

    def _moments(self, params: list[Tensor], name: str) -> list[Tensor]:
        """State tensors of that name, created as zeros at first use."""
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return [self.state[p][name] for p in params]

    def _muon_step(self, group: dict[str, Any], params: list[Tensor], keep: Tensor) -> None:
        """One Muon step over all parameters of a group."""
        grads = [p.grad for p in params]
        momentum = self._moments(params, "exp_avg")
        _average(momentum, grads, group["beta"], keep)
        mixed = _nesterov(momentum, grads, group["beta"], group["step"])
        updates = orthogonalise_all(mixed, steps=group["ns_steps"], dtype=NS_DTYPES[group["ns_dtype"]])
        _apply(params, updates, group, keep)

    def _adam_step(self, group: dict[str, Any], params: list[Tensor], keep: Tensor) -> None:
        """One Adam or NAdam step over all parameters of a group."""
        grads = [p.grad for p in params]
        beta1, beta2 = group["betas"]
        first = self._moments(params, "exp_avg")
        second = self._moments(params, "exp_avg_sq")
        _average(first, grads, beta1, keep)
        _average(second, torch._foreach_mul(grads, grads), beta2, keep)
        if group["nesterov"]:
            numerators = _nesterov(first, grads, beta1, group["step"])
        else:
            numerators = torch._foreach_div(first, _bias(beta1, group["step"]))
        denominators = torch._foreach_sqrt(torch._foreach_div(second, _bias(beta2, group["step"])))
        torch._foreach_add_(denominators, group["eps"])
        _apply(params, torch._foreach_div(numerators, denominators), group, keep)


def _bias(beta: float, count: Tensor) -> Tensor:
    """``1 - beta^count`` as a float32 scalar, computed in float64; a count of 0 is read as 1."""
    return (1.0 - beta ** count.clamp(min=1).double()).float()


def _average(averages: list[Tensor], values: list[Tensor], beta: float, keep: Tensor) -> None:
    """``average = beta average + (1 - beta) value`` in place; unchanged where ``keep`` is false."""
    decay = torch.where(keep, beta, 1.0).float()
    torch._foreach_mul_(averages, decay)
    torch._foreach_add_(averages, torch._foreach_mul(values, torch.where(keep, 1.0 - beta, 0.0).float()))


def _nesterov(averages: list[Tensor], grads: list[Tensor], beta: float, count: Tensor) -> list[Tensor]:
    """``beta m / (1 - beta^(t+1)) + (1 - beta) g / (1 - beta^t)``."""
    mixed = torch._foreach_mul(averages, beta / _bias(beta, count + 1))
    torch._foreach_add_(mixed, torch._foreach_mul(grads, (1.0 - beta) / _bias(beta, count)))
    return list(mixed)


def _apply(params: list[Tensor], updates: Iterable[Tensor], group: dict[str, Any], keep: Tensor) -> None:
    """``p = p (1 - lr weight_decay) - lr u`` in place; unchanged where ``keep`` is false."""
    rate = torch.where(keep, group["lr"], torch.zeros_like(group["lr"]))
    if group["weight_decay"]:
        torch._foreach_mul_(params, 1.0 - rate * group["weight_decay"])
    torch._foreach_sub_(params, torch._foreach_mul(list(updates), rate))


def matrix_names(module: nn.Module) -> set[str]:
    """Names of the weight matrices of a module: parameters called ``weight`` with two axes, or three where stacked."""
    return {n for n, p in module.named_parameters() if n.rpartition(".")[2] == "weight" and p.dim() in (2, 3)}


def build_optimiser(
    module: nn.Module,
    *,
    kind: OptimiserKind,
    lr: float,
    weight_decay: float = 0.0,
    ns_dtype: NsDtype = "float32",
) -> MuonAdam:
    """Optimiser over the trainable parameters of a module; weight decay acts on weight matrices only.

    Args:
        module: The networks.
        kind: "muon": Muon on matrices, NAdam on the rest. "adamw": Adam on everything, epsilon 1e-5.
        lr: Initial learning rate of all groups.
        weight_decay: Decoupled weight decay of the matrices.
        ns_dtype: Precision of Muon's Newton-Schulz products.

    Returns:
        The optimiser.

    Raises:
        ValueError: The kind is unknown.

    Source: MuscleMimic's optimiser settings. Its adamw also decays biases, layer norms and the standard deviation.
    """
    if kind not in ("muon", "adamw"):
        raise ValueError(f"optimiser {kind!r} is not known; choose muon or adamw")
    names = matrix_names(module)
    trainable = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    matrices = [p for n, p in trainable if n in names]
    others = [p for n, p in trainable if n not in names]
    algorithm = "muon" if kind == "muon" else "adam"
    groups = [
        {"params": matrices, "algorithm": algorithm, "weight_decay": weight_decay},
        {"params": others, "algorithm": "adam", "weight_decay": 0.0},
    ]
    eps = MUON_EPSILON if kind == "muon" else ADAMW_EPSILON
    filled = [group for group in groups if group["params"]]
    return MuonAdam(filled, lr=lr, eps=eps, nesterov=kind == "muon", ns_dtype=ns_dtype)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float | Tensor) -> None:
    """Write one learning rate into every group, in place where the group holds a tensor."""
    for group in optimiser.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = float(lr)
        elif isinstance(lr, Tensor):
            group["lr"].copy_(lr)
        else:
            group["lr"].fill_(lr)


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> ClipReport:
    """Scale all gradients so that their global norm is at most ``max_norm``; zero them all if any is not finite.

    In place and without a synchronisation. The zeroed gradients are never applied: pass ``finite`` on to
    ``MuonAdam.step``, which then leaves everything unchanged.

    Args:
        parameters: Parameters whose ``grad`` is clipped.
        max_norm: Largest global norm.

    Returns:
        Norm before clipping and the finite flag.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    finite = torch.isfinite(norm)
    torch._foreach_mul_(grads, (max_norm / norm).clamp(max=1.0))
    for grad in grads:
        grad.masked_fill_(~finite, 0.0)
    return ClipReport(norm, finite)


def guarded_step(optimiser: MuonAdam, max_norm: float) -> ClipReport:
    """Clip by global norm, then step only if every gradient is finite; skipped steps are counted in the optimiser.

    Args:
        optimiser: The optimiser, or a wrapper that offers ``param_groups`` and passes keywords of ``step`` on.
        max_norm: Largest global gradient norm.

    Returns:
        Norm before clipping and the finite flag.
    """
    report = clip_gradients([p for group in optimiser.param_groups for p in group["params"]], max_norm)
    optimiser.step(finite=report.finite)
    return report


def skipped_steps(optimiser: MuonAdam) -> Tensor:
    """Steps left out so far because a gradient was not finite, () int64 on the device."""
    return optimiser.param_groups[0]["skipped"]


def consecutive_skips(finite: Iterable[bool], running: int = 0) -> tuple[int, int]:
    """Steps left out one after the other.

    Args:
        finite: Whether each step in turn was made.
        running: Steps left out just before the first.

    Returns:
        Longest row of steps left out, and the row that is still running at the end.
    """
    longest = running
    for made in finite:
        running = 0 if made else running + 1
        longest = max(longest, running)
    return longest, running
