"""Which clip, and which frame of it, an episode starts from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

RATE_EPSILON = 1e-6


def episode_counts(clip_ids: Tensor, done: Tensor, terminated: Tensor, num_clips: int) -> tuple[Tensor, Tensor]:
    """Episodes that ended, and that ended early, per clip of one rollout.

    Args:
        clip_ids: Clip followed at each step, before any reset, (...) int64.
        done: The episode ended at this step, same shape, bool.
        terminated: It ended early, same shape, bool; counted only where ``done``.
        num_clips: Number of clips C.

    Returns:
        Done counts and early counts, each (C,) float32.
    """
    flat = clip_ids.reshape(-1)
    zeros = torch.zeros(num_clips, device=clip_ids.device)
    done_counts = zeros.scatter_add(0, flat, done.reshape(-1).float())
    early_counts = zeros.scatter_add(0, flat, (done & terminated).reshape(-1).float())
    return done_counts, early_counts


class ClipSampler:
    """Draw clips, uniformly or more often where episodes end early.

    ``D <- (1 - b) D + b d``, ``E <- (1 - b) E + b e`` per clip and rollout; ``rate = E / (D + 1e-6)``;
    ``w = (1 - floor) (rate + 1e-6)^power / sum + floor / C``. The default ``floor = 1`` is the uniform draw.

    ====================  ==================================================  ====
    ``done_average``      moving average D of episodes ended per rollout      (C,)
    ``early_average``     moving average E of episodes ended early            (C,)
    ====================  ==================================================  ====

    Args:
        num_clips: Number of clips C.
        floor: Share of the weight that is spread evenly; 1 is uniform, the original's adaptive mode uses 0.1.
        power: Exponent of the rate.
        smoothing: Weight b of the newest rollout.
        prior_done: First value of D.
        prior_early: First value of E.
        device: Where the tensors live.

    Raises:
        ValueError: There is no clip or ``floor`` lies outside [0, 1].

    Source: MuscleMimic's adaptive motion sampling.
    """

    def __init__(
        self,
        num_clips: int,
        *,
        floor: float = 1.0,
        power: float = 1.0,
        smoothing: float = 0.2,
        prior_done: float = 10.0,
        prior_early: float = 5.0,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_clips < 1:
            raise ValueError(f"num_clips is {num_clips}; the bank must hold at least one clip")
        if not 0.0 <= floor <= 1.0:
            raise ValueError(f"floor is {floor}; give a share between 0 and 1 (1 draws uniformly)")
        self.num_clips = num_clips
        self.floor, self.power, self.smoothing = floor, power, smoothing
        self.done_average = torch.full((num_clips,), prior_done, device=device)
        self.early_average = torch.full((num_clips,), prior_early, device=device)

    def rates(self) -> Tensor:
        """Estimated early-termination rate of each clip, (C,)."""
        return self.early_average / (self.done_average + RATE_EPSILON)

    def weights(self) -> Tensor:
        """Probability of each clip, (C,), summing to 1."""
        raw = (self.rates() + RATE_EPSILON).pow(self.power)
        return (1.0 - self.floor) * raw / raw.sum() + self.floor / self.num_clips

    def update(self, done_counts: Tensor, early_counts: Tensor) -> None:
        """Fold the counts of one rollout into the averages, in place.

        Args:
            done_counts: Episodes that ended, per clip, (C,).
            early_counts: Episodes that ended early, per clip, (C,).

        Raises:
            ValueError: A count is not (C,).
        """
        for name, counts in (("done_counts", done_counts), ("early_counts", early_counts)):
            if counts.shape != (self.num_clips,):
                raise ValueError(f"{name} has shape {tuple(counts.shape)}, expected ({self.num_clips},)")
        self.done_average.lerp_(done_counts.float(), self.smoothing)
        self.early_average.lerp_(early_counts.float(), self.smoothing)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw clips by their weights, without a device synchronisation.

        Args:
            count: How many.
            generator: Source of randomness on the sampler's device; None means torch's own.

        Returns:
            Clip ids, (count,) int64.
        """
        edges = self.weights().double().cumsum(0)
        uniform = torch.rand(count, generator=generator, device=edges.device, dtype=torch.float64)
        return torch.searchsorted(edges, uniform * edges[-1], right=True).clamp(max=self.num_clips - 1)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the averages."""
        return {"done_average": self.done_average.clone(), "early_average": self.early_average.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the averages in place.

        Raises:
            ValueError: Keys differ, or the state belongs to another number of clips.
        """
        if set(state) != {"done_average", "early_average"}:
            raise ValueError(f"clip sampler state has keys {sorted(state)}, expected done_average and early_average")
        for name, target in (("done_average", self.done_average), ("early_average", self.early_average)):
            if state[name].shape != target.shape:
                raise ValueError(
                    f"clip sampler state {name!r} covers {state[name].numel()} clips, this bank holds "
                    f"{self.num_clips}; reset the sampler to train on another bank"
                )
            target.copy_(state[name])


def draw_frames(
    clip_ids: Tensor, clip_lengths: Tensor, min_remaining: int, generator: torch.Generator | None = None
) -> Tensor:
    """First frame of each episode, uniform over ``[0, length - min_remaining]``, both ends included.

    Args:
        clip_ids: Drawn clips, (N,) int64.
        clip_lengths: Frames of every clip, (C,) int64.
        min_remaining: Frames that must remain, counting the first; 1 allows the last frame, as the original does. A
            shorter clip starts at frame 0.
        generator: Source of randomness on the device of ``clip_ids``.

    Returns:
        Frames, (N,) int64.
    """
    choices = (clip_lengths[clip_ids] - min_remaining + 1).clamp(min=1)
    uniform = torch.rand(clip_ids.shape, generator=generator, device=clip_ids.device, dtype=torch.float64)
    return (uniform * choices).long().minimum(choices - 1)
