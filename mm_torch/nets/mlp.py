"""Fully connected towers: plain (dense, layer norm, activation) and gated residual.

Initialisation follows the original: orthogonal kernels, zero biases, gain sqrt(2) inside and 0.01 at the output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["silu", "tanh"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "tanh": nn.Tanh}
HIDDEN_GAIN = math.sqrt(2.0)
OUTPUT_GAIN = 0.01
LAYER_NORM_EPSILON = 1e-5


def dense(in_dim: int, out_dim: int, gain: float) -> nn.Linear:
    """Linear layer with an orthogonal kernel of the given gain and a zero bias."""
    layer = nn.Linear(in_dim, out_dim)
    nn.init.orthogonal_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)
    return layer


def activation_module(name: str) -> nn.Module:
    """The activation of that name.

    Raises:
        ValueError: No activation has that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not known; choose one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def norm_module(dim: int, layer_norm: bool) -> nn.Module:
    """Layer norm over the last axis, or the identity where it is switched off."""
    return nn.LayerNorm(dim, eps=LAYER_NORM_EPSILON) if layer_norm else nn.Identity()


class PlainTower(nn.Module):
    """Dense, layer norm, activation for each hidden width, then a linear output of gain 0.01.

    Args:
        in_dim: Input width.
        hidden: Hidden widths, at least one.
        out_dim: Output width.
        activation: Activation name.
        layer_norm: Whether a layer norm follows each hidden dense layer.
    """

    def __init__(
        self, in_dim: int, hidden: Sequence[int], out_dim: int, *, activation: Activation, layer_norm: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = [in_dim, *hidden]
        for before, after in pairwise(widths):
            layers += [
                dense(before, after, HIDDEN_GAIN),
                norm_module(after, layer_norm),
                activation_module(activation),
            ]
        self.layers = nn.Sequential(*layers)
        self.output = dense(widths[-1], out_dim, OUTPUT_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        return self.output(self.layers(x))


class ResidualBlock(nn.Module):
    """Two dense layers beside a skip path, mixed by one learned gate.

    ``h = LN(W1 act(LN(W0 x)))``; ``out = act(skip + sigmoid(g) h)``. The skip is ``x``, or a biased projection of it
    where the width changes.

    Args:
        in_dim: Input width.
        inner_dim: Width after the first dense layer.
        out_dim: Width after the second dense layer.
        activation: Activation name.
        layer_norm: Whether a layer norm follows each dense layer of the branch.
        gate_init: Initial g; -2 opens the branch by 0.119.
    """

    def __init__(
        self,
        in_dim: int,
        inner_dim: int,
        out_dim: int,
        *,
        activation: Activation,
        layer_norm: bool,
        gate_init: float,
    ) -> None:
        super().__init__()
        self.dense_0 = dense(in_dim, inner_dim, HIDDEN_GAIN)
        self.norm_0 = norm_module(inner_dim, layer_norm)
        self.dense_1 = dense(inner_dim, out_dim, OUTPUT_GAIN)
        self.norm_1 = norm_module(out_dim, layer_norm)
        self.skip = nn.Identity() if in_dim == out_dim else dense(in_dim, out_dim, 1.0)
        self.gate = nn.Parameter(torch.full((1,), gate_init))
        self.act = activation_module(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        branch = self.norm_1(self.dense_1(self.act(self.norm_0(self.dense_0(x)))))
        return self.act(self.skip(x) + torch.sigmoid(self.gate) * branch)


class ResidualTower(nn.Module):
    """Gated residual blocks over pairs of hidden widths, a plain layer for an odd last width, a linear output.

    Args:
        in_dim: Input width.
        hidden: Hidden widths; consumed in pairs (inner, out).
        out_dim: Output width.
        activation: Activation name.
        layer_norm: Whether layer norms follow the dense layers.
        gate_init: Initial value of each block's gate before the sigmoid.

    Source: MuscleMimic ``gmr_resnet``; Srivastava, Greff and Schmidhuber (2015) for gated skips.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        *,
        activation: Activation,
        layer_norm: bool,
        gate_init: float,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = in_dim
        for inner, after in zip(hidden[0::2], hidden[1::2], strict=False):
            blocks.append(
                ResidualBlock(width, inner, after, activation=activation, layer_norm=layer_norm, gate_init=gate_init)
            )
            width = after
        self.blocks = nn.Sequential(*blocks)
        tail: list[nn.Module] = []
        if len(hidden) % 2:
            tail = [
                dense(width, hidden[-1], HIDDEN_GAIN),
                norm_module(hidden[-1], layer_norm),
                activation_module(activation),
            ]
            width = hidden[-1]
        self.tail = nn.Sequential(*tail)
        self.output = dense(width, out_dim, OUTPUT_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        return self.output(self.tail(self.blocks(x)))
