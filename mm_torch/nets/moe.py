"""Soft mixture of experts: every expert is evaluated, a softmax gate weighs them.

Experts are stacked along a leading axis and evaluated by one batched product each, never in a Python loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mm_torch.nets.mlp import HIDDEN_GAIN, OUTPUT_GAIN, Activation, activation_module, dense, norm_module


@dataclass(frozen=True)
class MixtureOptions:
    """How a tower mixes experts.

    ==================  =====================================================================
    ``experts``         number of experts E in each mixture layer
    ``layers``          hidden layers (0 = first) replaced by a mixture
    ``temperature``     divides the gate logits; below 1 sharpens the choice
    ``balance_weight``  factor of the load-balance loss that is added to the total loss
    ``hidden_ratio``    width inside an expert as a fraction of the layer's width
    ``gate_std``        standard deviation of the initial gate weights
    ==================  =====================================================================
    """

    experts: int
    layers: tuple[int, ...]
    temperature: float = 1.0
    balance_weight: float = 0.01
    hidden_ratio: float = 0.5
    gate_std: float = 0.01


class MixtureReport(NamedTuple):
    """Gate figures of one forward pass, averaged over mixture layers except the loss, which is their sum.

    ========================  ===============================================================  ==
    ``balance_loss``          ``weight E sum_e mean_batch(gate_e)^2``; least at equal use       ()
    ``gate_entropy``          mean entropy of the gates, nat                                   ()
    ``utilisation_variance``  population variance over experts of their mean gate              ()
    ``top2_mass``             mean gate weight of the two largest experts                      ()
    ``gate_std``              population standard deviation over all gate weights              ()
    ========================  ===============================================================  ==
    """

    balance_loss: Tensor
    gate_entropy: Tensor
    utilisation_variance: Tensor
    top2_mass: Tensor
    gate_std: Tensor


class StackedDense(nn.Module):
    """E independent linear layers evaluated together: ``y_e = W_e x_e + b_e``, orthogonal kernels, zero biases.

    Args:
        experts: E.
        in_dim: Input width.
        out_dim: Output width.
        gain: Gain of each orthogonal kernel.
    """

    def __init__(self, experts: int, in_dim: int, out_dim: int, gain: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, out_dim, in_dim))
        self.bias = nn.Parameter(torch.zeros(experts, out_dim))
        for expert in range(experts):
            nn.init.orthogonal_(self.weight.data[expert], gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        """Map (E or 1, B, in_dim) to (E, B, out_dim)."""
        weight = self.weight.transpose(-1, -2)  # (E, in, out)
        return torch.baddbmm(self.bias.unsqueeze(1), x.expand(weight.shape[0], -1, -1), weight)


class SoftMixture(nn.Module):
    """Gate-weighted sum of E two-layer experts: ``sum_e softmax(gate(x) / temperature)_e expert_e(x)``.

    Args:
        in_dim: Input width.
        out_dim: Output width.
        options: Mixture settings.
        activation: Activation inside each expert.

    Source: MuscleMimic's soft mixture layer; Jacobs et al. (1991), "Adaptive mixtures of local experts".
    """

    def __init__(self, in_dim: int, out_dim: int, *, options: MixtureOptions, activation: Activation) -> None:
        super().__init__()
        inner = int(out_dim * options.hidden_ratio)
        self.temperature = options.temperature
        self.gate = dense(in_dim, options.experts, 1.0)
        nn.init.normal_(self.gate.weight, std=options.gate_std)
        self.hidden = StackedDense(options.experts, in_dim, inner, HIDDEN_GAIN)
        self.output = StackedDense(options.experts, inner, out_dim, OUTPUT_GAIN)
        self.act = activation_module(activation)

    def mix(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mixture output and gates.

        Args:
            x: Input, (..., in_dim).

        Returns:
            Output (..., out_dim) and gates (..., E), which sum to 1.
        """
        flat = x.reshape(-1, x.shape[-1])
        gates = torch.softmax(self.gate(flat) / self.temperature, dim=-1)  # (B, E)
        experts = self.output(self.act(self.hidden(flat.unsqueeze(0))))  # (E, B, out)
        mixed = torch.einsum("be,ebo->bo", gates, experts)
        batch = x.shape[:-1]
        return mixed.reshape(batch + mixed.shape[-1:]), gates.reshape(batch + gates.shape[-1:])

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        return self.mix(x)[0]


class MixtureTower(nn.Module):
    """Plain tower in which some hidden dense layers are soft mixtures.

    Args:
        in_dim: Input width.
        hidden: Hidden widths.
        out_dim: Output width.
        options: Mixture settings; ``options.layers`` index into ``hidden``.
        activation: Activation name.
        layer_norm: Whether a layer norm follows each hidden layer.

    Raises:
        ValueError: A mixture layer lies outside ``hidden``.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        *,
        options: MixtureOptions,
        activation: Activation,
        layer_norm: bool,
    ) -> None:
        super().__init__()
        if not options.layers or not set(options.layers) <= set(range(len(hidden))):
            raise ValueError(f"mixture layers {options.layers} must name layers 0 to {len(hidden) - 1} of the tower")
        layers: list[nn.Module] = []
        finishes: list[nn.Module] = []
        width = in_dim
        for index, after in enumerate(hidden):
            if index in options.layers:
                layers.append(SoftMixture(width, after, options=options, activation=activation))
            else:
                layers.append(dense(width, after, HIDDEN_GAIN))
            finishes.append(nn.Sequential(norm_module(after, layer_norm), activation_module(activation)))
            width = after
        self.layers = nn.ModuleList(layers)
        self.finishes = nn.ModuleList(finishes)
        self.output = dense(width, out_dim, OUTPUT_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        for layer, finish in zip(self.layers, self.finishes):  # noqa: B905  (TorchScript knows no strict zip)
            x = finish(layer(x))
        return self.output(x)

    @torch.jit.ignore
    def forward_with_gates(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Output (..., out_dim) and the gates (..., E) of each mixture layer in order."""
        gates: list[Tensor] = []
        for layer, finish in zip(self.layers, self.finishes, strict=True):
            if isinstance(layer, SoftMixture):
                x, gate = layer.mix(x)
                gates.append(gate)
            else:
                x = layer(x)
            x = finish(x)
        return self.output(x), gates


def mixture_report(gates: Sequence[Tensor], balance_weight: float) -> MixtureReport:
    """Load-balance loss and gate figures of one or more mixture layers.

    Args:
        gates: Gates of each layer, each (..., E).
        balance_weight: Factor of the load-balance loss.

    Returns:
        The report; only ``balance_loss`` carries a gradient.

    Source: MuscleMimic's load-balance loss, ``weight E sum_e importance_e^2``.
    """
    flat = [gate.reshape(-1, gate.shape[-1]) for gate in gates]
    importance = [gate.mean(0) for gate in flat]
    loss = torch.stack([i.shape[0] * i.square().sum() for i in importance]).sum() * balance_weight
    with torch.no_grad():
        entropy = [-(gate * (gate + 1e-10).log()).sum(-1).mean() for gate in flat]
        variance = [i.var(correction=0) for i in importance]
        top2 = [gate.topk(min(2, gate.shape[-1]), dim=-1).values.sum(-1).mean() for gate in flat]
        spread = [gate.std(correction=0) for gate in flat]
        figures = [torch.stack(values).mean() for values in (entropy, variance, top2, spread)]
    return MixtureReport(loss, *figures)
