"""Networks of MuscleMimic as ours: which tower a checkpoint holds, and its weights under our names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mm_torch.callbacks.checkpoint import CheckpointError
from mm_torch.ppo.policy import Agent

TOWERS = ("actor", "critic")
# kind to the hidden layers of its actor: name of the kernel whose last axis is the layer's width
KERNELS = {
    "plain": r"params\.{tower}\.Dense_(?P<at>\d+)\.kernel",
    "residual": r"params\.{tower}\.(?:block(?P<at>\d+)_layer(?P<half>\d)|tail)_dense\.kernel",
    "moe": r"params\.{tower}_(?:dense_(?P<at>\d+)|moe_layer_(?P<mixture>\d+)\.expert_0_output)\.kernel",
}
# our module to theirs; * stands for each expert, whose arrays are stacked
MODULES = {
    "residual": (
        (r"(\w+)\.blocks\.(\d+)\.dense_(\d)", r"\1.block\2_layer\3_dense"),
        (r"(\w+)\.blocks\.(\d+)\.norm_(\d)", r"\1.block\2_layer\3_ln"),
        (r"(\w+)\.blocks\.(\d+)\.skip", r"\1.block\2_proj"),
        (r"(\w+)\.tail\.0", r"\1.tail_dense"),
        (r"(\w+)\.tail\.1", r"\1.tail_ln"),
        (r"(\w+)\.output", r"\1.output"),
    ),
    "moe": (
        (r"(\w+)\.layers\.(\d+)", r"\1_dense_\2"),
        (r"(\w+)\.layers\.(\d+)\.gate", r"\1_moe_layer_\2.gate"),
        (r"(\w+)\.layers\.(\d+)\.(hidden|output)", r"\1_moe_layer_\2.expert_*_\3"),
        (r"(\w+)\.finishes\.(\d+)\.0", r"\1_ln_\2"),
        (r"(\w+)\.output", r"\1_output"),
    ),
}


def network_of(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Settings ``net.*`` of the towers that a checkpoint holds.

    Returns:
        ``kind``, ``hidden``; for mixtures also ``moe.layers`` and ``moe.experts``.

    Raises:
        CheckpointError: a tower that we do not have, or two that differ.
    """
    if f"params.{TOWERS[0]}.Dense_0.kernel" in arrays:
        kind = "plain"
    else:
        kind = next((k for k in ("residual", "moe") if _widths(k, TOWERS[0], arrays)), None)
    if kind is None:
        found = sorted({".".join(n.split(".")[1:3]) for n in arrays if n.startswith("params.")})[:4]
        raise CheckpointError(f"{path}: unknown tower (parameters {', '.join(found)} ...); known are those of MuscleMimic's "
                              "ActorCritic (plain or residual) and SoftMoEActorCritic")
    actor, critic = (_widths(kind, tower, arrays) for tower in TOWERS)
    if actor != critic:
        raise CheckpointError(f"{path}: actor {actor} and critic {critic} have different hidden layers; net.hidden holds "
                              "for both, so this network cannot be taken over")
    net: dict[str, Any] = {"kind": kind, "hidden": actor}
    if kind == "moe":
        mixtures = [int(m[1]) for n in arrays if (m := re.fullmatch(r"params\.actor_moe_layer_(\d+)\.gate\.bias", n))]
        if mixtures:
            gate = arrays[f"params.actor_moe_layer_{mixtures[0]}.gate.bias"]
            net |= {"moe.layers": sorted(mixtures), "moe.experts": gate.shape[-1]}
    return net


def _widths(kind: str, tower: str, arrays: dict[str, np.ndarray]) -> list[int]:
    """Widths of a tower's hidden layers, from the shapes of its kernels."""
    found = []
    for name, array in arrays.items():
        match = re.fullmatch(KERNELS[kind].format(tower=tower), name)
        if match:
            place = {k: int(v) for k, v in match.groupdict().items() if v is not None}
            last = len(arrays)  # the residual tail has no number and comes last
            found.append((place.get("at", place.get("mixture", last)), place.get("half", 0), array.shape[-1]))
    widths = [width for *_, width in sorted(found)]
    return widths[:-1] if kind == "plain" else widths  # the last plain Dense is the output


def weights_of(path: Path, arrays: dict[str, np.ndarray], agent: Agent) -> dict[str, Tensor]:
    """State of our networks, every array of the checkpoint used once.

    Args:
        path: of the checkpoint, for messages.
        arrays: parameters and running statistics.
        agent: networks of the sizes wanted; not changed.

    Raises:
        CheckpointError: an array is missing, has another shape, or belongs to no part of our networks.
    """
    state, used = {}, set()
    kind = network_of(path, arrays)["kind"]
    rules = MODULES.get(kind) or plain_modules(len(network_of(path, arrays)["hidden"]))
    for ours, target in agent.state_dict().items():
        if ours == "normaliser.rejected":
            state[ours] = torch.zeros_like(target)
            continue
        names = _sources(ours, target, rules, arrays)
        missing = [n for n in names if n not in arrays] or ([] if names else [ours])
        if missing:
            raise CheckpointError(f"{path}: {missing[0]} is missing; the checkpoint is partial or of a variant of the tower "
                                  "that is not known here")
        used.update(names)
        state[ours] = _tensor(path, [arrays[n] for n in names], names, target)
    rest = sorted(set(arrays) - used)
    if rest:
        raise CheckpointError(f"{path}: {rest[0]} belongs to no part of a {kind} tower; this variant is not known here")
    return state


def plain_modules(layers: int) -> tuple[tuple[str, str], ...]:
    """Our modules to theirs for a plain tower: dense, norm and activation are three entries of one sequence here."""
    rules: list[tuple[str, str]] = [(r"(\w+)\.output", rf"\1.Dense_{layers}")]
    for i in range(layers):
        rules += [(rf"(\w+)\.layers\.{3 * i}", rf"\1.Dense_{i}"), (rf"(\w+)\.layers\.{3 * i + 1}", rf"\1.LayerNorm_{i}")]
    return tuple(rules)


def _sources(ours: str, target: Tensor, rules: tuple[tuple[str, str], ...], arrays: dict[str, np.ndarray]) -> list[str]:
    """Names of the arrays that one of our tensors is made of."""
    part, _, leaf = ours.partition(".")
    if part == "normaliser":
        return [n for n in arrays if n.startswith("run_stats.") and n.endswith(f".{leaf}")]
    if leaf == "log_std":
        return ["params.log_std"]
    if gate := re.fullmatch(r"(\w+)\.blocks\.(\d+)\.gate", leaf):
        return [f"params.{gate[1]}.res_gate_{gate[2]}"]
    module, _, leaf = leaf.rpartition(".")
    theirs = next(re.sub(pattern, name, module) for pattern, name in rules if re.fullmatch(pattern, module))
    leaf = leaf if leaf == "bias" else "scale" if target.ndim == 1 else "kernel"
    if "*" not in theirs:
        return [f"params.{theirs}.{leaf}"]
    return [f"params.{theirs.replace('*', str(expert))}.{leaf}" for expert in range(len(target))]


def _tensor(path: Path, arrays: list[np.ndarray], names: list[str], target: Tensor) -> Tensor:
    """Kernels are (in, out) there and (out, in) here."""
    parts = [torch.from_numpy(np.array(a.T if a.ndim == 2 else a)) for a in arrays]
    value = torch.stack(parts) if target.ndim > parts[0].ndim else parts[0]
    if value.shape != target.shape:
        raise CheckpointError(f"{path}: {names[0]} has shape {tuple(arrays[0].shape)}, which does not fit the other layers "
                              f"(here {tuple(target.shape)}); the checkpoint is damaged or of an unknown tower")
    return value.to(target.dtype)
