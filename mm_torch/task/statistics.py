"""What an iteration reports of its episodes: sums on the device, read once."""

from __future__ import annotations

import torch
from torch import Tensor


class EpisodeStatistics:
    """Sums over the control steps of one iteration; written without host synchronisation.

    Args:
        num_envs: N.
        num_clips: C.
        device: where the sums live.
    """

    def __init__(self, num_envs: int, num_clips: int, device: torch.device) -> None:
        self.returns = torch.zeros(num_envs, device=device)  # of the episodes under way
        self._step_sums: dict[str, Tensor] = {}
        self._count = torch.zeros((), device=device)
        self._episode = torch.zeros(3, device=device)  # ended, their steps, their return
        self.clip_done = torch.zeros(num_clips, device=device)
        self.clip_early = torch.zeros(num_clips, device=device)

    def add(
        self, running: Tensor, reward: Tensor, per_step: dict[str, Tensor], done: Tensor, terminated: Tensor, steps: Tensor,
        clip: Tensor,
    ) -> None:
        """Add one control step of the running worlds.

        Args:
            running: (N,) bool; what follows is zero or false in the others.
            reward: (N,) raw reward.
            per_step: quantities (N,) whose mean over the iteration is reported.
            done: (N,) bool, episodes that ended.
            terminated: (N,) bool, those that failed.
            steps: (N,) control steps of the episodes under way, this one included.
            clip: (N,) clips they follow.
        """
        self.returns += reward
        for name, value in per_step.items():
            total = value.sum()
            self._step_sums[name] = self._step_sums[name] + total if name in self._step_sums else total
        self._count += running.sum()
        ended = done.to(reward.dtype)
        self._episode += torch.stack([ended.sum(), (ended * steps).sum(), (ended * self.returns).sum()])
        self.clip_done.index_add_(0, clip, ended)
        self.clip_early.index_add_(0, clip, (done & terminated).to(reward.dtype))
        self.returns *= 1.0 - ended

    def read(self) -> dict[str, float]:
        """Means since the last ``clear``; episode figures are absent while no episode has ended."""
        count = max(self._count.item(), 1.0)
        result = {name: total.item() / count for name, total in self._step_sums.items()}
        ended, length, total_return = self._episode.tolist()
        if ended:
            result |= {
                "episode_length": length / ended,
                "episode_return": total_return / ended,
                "early_termination_rate": self.clip_early.sum().item() / ended,
            }
        return result | {"episodes": ended}

    def clear(self) -> None:
        """Start the next iteration; episodes under way go on."""
        self._step_sums.clear()
        for total in (self._count, self._episode, self.clip_done, self.clip_early):
            total.zero_()
