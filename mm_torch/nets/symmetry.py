"""Left and right treated alike by construction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mm_torch.maths.reflection import Reflection


class SymmetricTower(nn.Module):
    """A tower made equivariant, ``y(x) = (f(x) + R_out f(R_in x)) / 2``: a mirrored input has the mirrored output.

    What is learned of one side serves both, at twice the arithmetic.

    Args:
        tower: f, (..., D_in) to (..., D_out).
        inputs: mirror image of inputs.
        outputs: mirror image of outputs; None: the output is the same for both, as a value is.

    Source: Abdolhosseini et al. (2019), On learning symmetric locomotion, the network method.
    """

    def __init__(self, tower: nn.Module, inputs: Reflection, outputs: Reflection | None) -> None:
        super().__init__()
        self.tower = tower
        self.mirrors_output = outputs is not None
        self.register_buffer("input_index", inputs.index)
        self.register_buffer("input_sign", inputs.sign)
        self.register_buffer("output_index", None if outputs is None else outputs.index)
        self.register_buffer("output_sign", None if outputs is None else outputs.sign)

    def forward(self, x: Tensor) -> Tensor:
        """Returns: (..., D_out)."""
        plain, mirrored = self.tower(torch.stack([x, self.mirrored(x)])).unbind(0)
        if self.mirrors_output:
            mirrored = mirrored[..., self.output_index] * self.output_sign
        return 0.5 * (plain + mirrored)

    def mirrored(self, x: Tensor) -> Tensor:
        """Mirror image of inputs (..., D_in)."""
        return x[..., self.input_index] * self.input_sign
