"""Muscle activation dynamics over a control step, and the excitation that reaches a wanted activation."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
import torch
from torch import Tensor

from sim_models.embodiment import Embodiment

_NEWTON_STEPS = 12


@dataclass(frozen=True, eq=False)
class ActivationDynamics:
    """First-order activation dynamics with a time constant that depends on the activation.

    One Euler substep of length h at constant excitation u in [0, 1]::

        a <- a + h (u - a) / tau,   tau = tau_act (0.5 + 1.5 a)   where u > a
                                    tau = tau_deact / (0.5 + 1.5 a)   elsewhere

    ========= ===================================================== ======== ====
    tau_act   time constants of activation                          (M,)     s
    tau_deact time constants of deactivation                        (M,)     s
    timestep  substep h                                             float    s
    substeps  substeps of a control step                            int
    ========= ===================================================== ======== ====

    Source: MuJoCo ``mju_muscleDynamics`` with ``tausmooth`` 0, after Millard et al. (2013), J. Biomech. Eng. 135(2).
    """

    tau_act: Tensor
    tau_deact: Tensor
    timestep: float
    substeps: int

    @classmethod
    def from_body(
        cls, body: Embodiment, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> ActivationDynamics:
        """Read the time constants of a body's muscles.

        Raises:
            ValueError: an actuator is no muscle, smooths its time constants, or has a substep too long for them.
        """
        model = body.model
        for i, name in enumerate(body.muscle_names):
            if model.actuator_dyntype[i] != mujoco.mjtDyn.mjDYN_MUSCLE or model.actuator_dynprm[i, 2] != 0.0:
                raise ValueError(f"actuator {name!r} has no muscle dynamics with tausmooth=0; use <muscle> defaults")
        shortest = min(0.5 * model.actuator_dynprm[:, 0].min(), 0.5 * model.actuator_dynprm[:, 1].min())
        if model.opt.timestep >= shortest:
            raise ValueError(f"timestep {model.opt.timestep} s exceeds the muscles' {shortest} s; shorten it")
        tau = torch.from_numpy(np.array(model.actuator_dynprm[:, :2])).to(device, dtype)
        return cls(tau[:, 0].contiguous(), tau[:, 1].contiguous(), float(model.opt.timestep), body.substeps)

    def advance(self, act: Tensor, excitation: Tensor) -> Tensor:
        """Activation after a control step.  Args: act and excitation (..., M).  Returns: (..., M)."""
        excitation = excitation.clamp(0.0, 1.0)
        for _ in range(self.substeps):
            factor = 0.5 + 1.5 * act.clamp(0.0, 1.0)
            tau = torch.where(excitation > act, self.tau_act * factor, self.tau_deact / factor)
            act = act + self.timestep * (excitation - act) / tau
        return act

    def excitation_for(self, act: Tensor, target: Tensor) -> Tensor:
        """Excitation whose control step leads from one activation to another, the nearest where none does.

        The excitation lies on the target's side of ``act`` and the activation approaches it monotonically, so the
        branch of the time constant is known beforehand. The end activation grows with the excitation; its root is
        found by Newton steps that a shrinking bracket safeguards.

        Args:
            act: (..., M) activation at the start, in [0, 1].
            target: (..., M) wanted activation at the end.

        Returns:
            (..., M) excitation in [0, 1].
        """
        rising = target > act
        low = torch.where(rising, act, torch.zeros_like(act))
        high = torch.where(rising, torch.ones_like(act), act)
        factor = 0.5 + 1.5 * (0.5 * (act + target)).clamp(0.0, 1.0)
        tau = torch.where(rising, self.tau_act * factor, self.tau_deact / factor)
        decay = (1.0 - self.timestep / tau) ** self.substeps
        u = torch.clamp((target - act * decay) / (1.0 - decay), low, high)
        for _ in range(_NEWTON_STEPS):
            end, slope = self._end_and_slope(act, u, rising)
            error = end - target
            low, high = torch.where(error < 0, u, low), torch.where(error > 0, u, high)
            step = u - error / slope
            u = torch.where((step >= low) & (step <= high), step, 0.5 * (low + high))
        return torch.where(self._end_and_slope(act, torch.ones_like(u), rising)[0] < target, torch.ones_like(u),
                           torch.where(self._end_and_slope(act, torch.zeros_like(u), rising)[0] > target,
                                       torch.zeros_like(u), u))

    def _end_and_slope(self, act: Tensor, u: Tensor, rising: Tensor) -> tuple[Tensor, Tensor]:
        """End activation and its derivative by the excitation on a known branch; both (..., M)."""
        slope = torch.zeros_like(u)
        for _ in range(self.substeps):
            factor = 0.5 + 1.5 * act
            rate = torch.where(rising, 1.0 / (self.tau_act * factor), factor / self.tau_deact)
            relative = torch.where(rising, -1.5 / factor, 1.5 / factor)  # d rate / d act / rate
            gap = u - act
            slope = slope + self.timestep * rate * (1.0 - slope + gap * relative * slope)
            act = act + self.timestep * rate * gap
        return act, slope
