"""Balance reflexes: what the legs do about a root that leaves the reference, in every control step.

Joint feedback holds joints; nothing of it sees that the whole body tilts or drifts. A reflex maps the root's errors to the
joints of the legs, with other gains for a leg that bears load than for one that swings. Gains are found by search
(``mm_torch.evolution``), not by gradients.

Source: feedback of trunk and centre of mass on hip and ankle by leg phase: Yin, Loken & van de Panne (2007), SIMBICON; reflex
gains of muscle-driven walkers found by evolution: Geyer & Herr (2010), IEEE TNSRE 18:263.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mm_torch.config.schema import ActionConfig
from mm_torch.maths import quaternion
from mm_torch.task.context import StepContext
from sim_models.embodiment import Embodiment
from sim_models.reflexes import GROUPS, LEG, foot_touch, joint_groups, leg_joints, site_shares

GRAVITY = 9.81  # m/s^2
UNITS = (0.2, 1.5, 0.3, 0.15)  # rad, rad/s, m/s, m: an error of one unit is one to the gains
LARGEST = 4.0  # units
BEARING = 0.3  # body weights on a foot from which on its leg counts as bearing load
PARTS = ("leg", "offset", "stiffness", "damping")


class Balance(nn.Module):
    """What is wrong with the balance, as a reflex sees it: reference minus own in heading axes, in units; load of both feet.

    Turn and angular velocity of the root; velocity and position of the centre of mass, by the mimic sites (``site_shares``).

    Args:
        body: embodiment that walks.
        device: where its tensors live.
    """

    size = 14
    """Entries: six errors of the sagittal plane, six others, load of the right and of the left foot."""

    def __init__(self, body: Embodiment, device: torch.device | str = "cpu") -> None:
        super().__init__()
        weight = float(body.model.body_mass.sum()) * GRAVITY
        feet = torch.as_tensor(foot_touch(body), dtype=torch.float32, device=device) / (BEARING * weight)
        self.register_buffer("feet", feet, persistent=False)
        shares = torch.as_tensor(site_shares(body), dtype=torch.float32, device=device)
        self.register_buffer("shares", -shares[:, None], persistent=False)  # errors are simulated minus reference
        lateral = body.lateral_axis
        others = [axis for axis in range(3) if axis != lateral]
        planes = ([lateral], others), (others, [lateral])  # axes of turns and of moves in the sagittal plane, and of the rest
        kinds = [enumerate((turn, turn, move, move)) for turn, move in planes]
        columns = [3 * kind + axis for plane in kinds for kind, axes in plane for axis in axes]
        self.register_buffer("columns", torch.tensor(columns, device=device), persistent=False)
        self.register_buffer("units", torch.tensor(UNITS, device=device).repeat_interleave(3), persistent=False)

    def forward(self, c: StepContext) -> Tensor:
        """Returns: (N, 14)."""
        turn, spin = quaternion.to_rotation_vector(c.root_turn), -c.site_velocity_error[:, 0, :3]
        moves = (torch.cat([c.site_velocity_error[..., 3:], c.site_error], dim=-1) * self.shares).sum(dim=1)
        errors = torch.cat([turn, spin, moves], dim=1).unflatten(1, (4, 3))
        seen = quaternion.rotate_inverse(c.heading[:, None], errors).flatten(1) / self.units
        load = (c.state.touch @ self.feet.T).clamp(0.0, 1.0)
        return torch.cat([seen.clamp(-LARGEST, LARGEST).index_select(1, self.columns), load], dim=1)


class Reflexes(nn.Module):
    """Gains of joint feedback and balance reflexes; with all at zero, joint feedback as configured.

    ``action = e^s k e + e^d b e' + sum over bearing and swinging of gate (G balance + offset)``. The left leg sees the mirror
    image of what the right one sees: a mirrored state has the mirrored action.

    ========== ===================================================================== =================
    leg        G by bearing or swinging, plane, joint and error of that plane        (1, 2, 2, 3, 6)
    offset     action by bearing or swinging, plane and joint                        (1, 2, 2, 3)
    stiffness  s, log scale of ``task.action.stiffness`` by group of joints          (1, G)
    damping    d, log scale of ``task.action.damping``                               (1, G)
    ========== ===================================================================== =================

    The first axis may be N: other gains in every world.

    Args:
        body: embodiment that walks.
        config: action map.
    """

    def __init__(self, body: Embodiment, config: ActionConfig) -> None:
        super().__init__()
        self.config = config
        groups = len(GROUPS) + 1
        shapes = {"leg": (2, 2, 3, 6), "offset": (2, 2, 3), "stiffness": (groups,), "damping": (groups,)}
        for name in PARTS:
            self.register_buffer(name, torch.zeros(1, *shapes[name]))
        joints = leg_joints(body)
        if joints is None:
            raise ValueError(f"{body.name} has no legs to balance on: {', '.join(sum(LEG, ()))} of both sides on a free root")
        self.register_buffer("joints", torch.as_tensor(joints).flatten(), persistent=False)
        self.register_buffer("groups", torch.as_tensor(joint_groups(body)), persistent=False)
        # the left leg sees the mirror image: errors of the sagittal plane as they are, the others turned round
        self.register_buffer("sign", torch.tensor([[1.0, 1.0], [1.0, -1.0]])[:, :, None, None], persistent=False)

    def forward(self, position_error: Tensor, velocity_error: Tensor, balance: Tensor) -> Tensor:
        """What is added to the policy's action (N, D).

        Args:
            position_error: (N, D) rad, next reference minus own position of the independent joints.
            velocity_error: (N, D) rad/s, likewise.
            balance: (N, 14), see ``Balance``.
        """
        stiffness, damping = (x.exp().index_select(1, self.groups) for x in (self.stiffness, self.damping))
        action = self.config.stiffness * stiffness * position_error + self.config.damping * damping * velocity_error
        errors, load = balance[:, :12].reshape(-1, 1, 2, 1, 6), balance[:, 12:]
        seen = errors * self.sign  # (N, side, plane, 1, error)
        gate = torch.stack([load, 1.0 - load], dim=1)[..., None, None]  # (N, bearing or swinging, side, 1, 1)
        response = (self.leg[:, :, None] * seen[:, None]).sum(dim=-1) + self.offset[:, :, None]
        return action.index_add(1, self.joints, (gate * response).sum(dim=1).flatten(1))

    @torch.jit.ignore
    def vector(self) -> Tensor:
        """All gains of the first world in a row (P,)."""
        return torch.cat([getattr(self, name)[0].flatten() for name in PARTS])

    @torch.jit.ignore
    def set_vector(self, gains: Tensor) -> None:
        """Set all gains: (P,) for all worlds, or (N, P) for each its own."""
        rows = gains.reshape(-1, gains.shape[-1])
        sizes = [getattr(self, name)[0].numel() for name in PARTS]
        for name, part in zip(PARTS, rows.split(sizes, dim=1), strict=True):
            value, present = part.reshape(-1, *getattr(self, name).shape[1:]), getattr(self, name)
            if value.shape == present.shape:
                present.copy_(value)
            else:
                setattr(self, name, value.clone())
