"""Muscle forces of a batch of states, linear in activation: MuJoCo's force, length and velocity curves in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from sim_models.embodiment import Embodiment


class ForceMap(NamedTuple):
    """Actuator forces at fixed lengths and velocities, ``force = passive + active * act``; a pull is negative.

    ======== ================================================= ======= ====
    passive  force without activation                          (N, M)  N
    active   what full activation adds                         (N, M)  N
    slope    derivative of ``active`` by the actuator velocity (N, M)  N s/m
    ======== ================================================= ======= ====
    """

    passive: Tensor
    active: Tensor
    slope: Tensor


@dataclass(frozen=True, eq=False)
class MuscleForces:
    """Force-length-velocity curves of a body's muscles.

    =============== ============================================================== ====== ======
    peak            maximum isometric force                                        (M,)   N
    optimal         optimal fibre length L0                                        (M,)   m
    offset          actuator length at normalised fibre length 0                   (M,)   m
    lmin            normalised length below which nothing is active                (M,)
    lmax            normalised length above which nothing is active                (M,)
    vmax            maximum shortening velocity                                    (M,)   L0/s
    fvmax           active force at fast lengthening by peak force                 (M,)
    passive_peak    passive force at ``passive_lmax``                              (M,)   N
    passive_optimal optimal length of the passive curve                            (M,)   m
    passive_offset  its actuator length at normalised length 0                     (M,)   m
    passive_lmax    its greatest normalised length                                 (M,)
    =============== ============================================================== ====== ======

    The passive curve has parameters of its own, since the published models give two muscles (supraspinatus) other ones.

    Source: MuJoCo ``mju_muscleGain`` and ``mju_muscleBias``.
    """

    peak: Tensor
    optimal: Tensor
    offset: Tensor
    lmin: Tensor
    lmax: Tensor
    vmax: Tensor
    fvmax: Tensor
    passive_peak: Tensor
    passive_optimal: Tensor
    passive_offset: Tensor
    passive_lmax: Tensor

    @classmethod
    def from_body(
        cls, body: Embodiment, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
    ) -> MuscleForces:
        """Read the curves of a body.

        Raises:
            ValueError: an actuator is no muscle.
        """
        model = body.model
        for i, name in enumerate(body.muscle_names):
            kinds = model.actuator_gaintype[i], model.actuator_biastype[i]
            if kinds != (mujoco.mjtGain.mjGAIN_MUSCLE, mujoco.mjtBias.mjBIAS_MUSCLE):
                raise ValueError(f"actuator {name!r} has no muscle gain and bias; use <muscle>")

        def tensor(values: np.ndarray) -> Tensor:
            return torch.as_tensor(np.array(values), dtype=dtype, device=device)

        gain, bias = model.actuator_gainprm, model.actuator_biasprm
        peak, optimal, offset = _scale(model, gain)
        passive, passive_optimal, passive_offset = _scale(model, bias)
        return cls(*map(tensor, (
            peak, optimal, offset, gain[:, 4], gain[:, 5], gain[:, 6], gain[:, 8],
            passive * bias[:, 7], passive_optimal, passive_offset, bias[:, 5],
        )))

    def __call__(self, length: Tensor, velocity: Tensor) -> ForceMap:
        """Forces at actuator lengths (N, M) m and velocities (N, M) m/s."""
        fibre = (length - self.offset) / self.optimal
        speed = velocity / (self.optimal * self.vmax)
        reach = self.peak * self._length_curve(fibre)
        curve, steepness = self._velocity_curve(speed)
        x = ((length - self.passive_offset) / self.passive_optimal - 1.0) / (0.5 * (self.passive_lmax - 1.0))
        stretch = torch.where(x <= 1.0, 0.5 * x.clamp_min(0.0).square(), x - 0.5)
        return ForceMap(
            -self.passive_peak * stretch, -reach * curve, -reach * steepness / (self.optimal * self.vmax)
        )

    def _length_curve(self, fibre: Tensor) -> Tensor:
        """Active force by normalised length: four parabola pieces, 1 at 1, 0 outside [lmin, lmax]."""
        low, knee = 0.5 * (self.lmin + 1.0), 0.5 * (1.0 + self.lmax)
        pieces = [
            0.5 * ((fibre - self.lmin) / (low - self.lmin)).square(),
            1.0 - 0.5 * ((1.0 - fibre) / (1.0 - low)).square(),
            1.0 - 0.5 * ((fibre - 1.0) / (knee - 1.0)).square(),
            0.5 * ((self.lmax - fibre) / (self.lmax - knee)).square(),
        ]
        rising = torch.where(fibre <= low, pieces[0], pieces[1])
        falling = torch.where(fibre <= knee, pieces[2], pieces[3])
        inside = (fibre >= self.lmin) & (fibre <= self.lmax)
        return torch.where(inside, torch.where(fibre <= 1.0, rising, falling), 0.0)

    def _velocity_curve(self, speed: Tensor) -> tuple[Tensor, Tensor]:
        """Active force by normalised velocity, and its derivative."""
        rise = self.fvmax - 1.0
        shortening, lengthening = (speed + 1.0).clamp_min(0.0), (rise - speed).clamp_min(0.0)
        return (
            torch.where(speed <= 0.0, shortening.square(), self.fvmax - lengthening.square() / rise),
            torch.where(speed <= 0.0, 2.0 * shortening, 2.0 * lengthening / rise),
        )


def _scale(model: mujoco.MjModel, prm: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Peak force N, optimal length m and length at zero m (M,) of gain or bias parameters (M, 10)."""
    span = model.actuator_lengthrange
    peak = np.where(prm[:, 2] >= 0.0, prm[:, 2], prm[:, 3] / model.actuator_acc0)
    optimal = (span[:, 1] - span[:, 0]) / (prm[:, 1] - prm[:, 0])
    return peak, optimal, span[:, 0] - prm[:, 0] * optimal
