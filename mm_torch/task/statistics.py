"""What an iteration reports of its episodes: sums on the device, read once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mm_torch.maths.ranks import sum_over_ranks


class EpisodeStatistics:
    """Sums over the control steps of one iteration; written without host synchronisation.

    Args:
        names: of the quantities that are reported as means over the control steps, Q.
        num_envs: N.
        num_clips: C.
        device: where the sums live.
    """

    def __init__(self, names: Sequence[str], num_envs: int, num_clips: int, device: torch.device) -> None:
        self.returns = torch.zeros(num_envs, device=device)  # of the episodes under way
        self._names = tuple(names)
        self._sums = torch.zeros(len(names) + 5, device=device)  # these; steps, failed; episodes, their steps and return
        self._clips = torch.zeros(2, num_clips, device=device)
        self.clip_done, self.clip_early = self._clips  # views: episodes that ended, those of them that failed

    def add(
        self, running: Tensor, failed: Tensor, reward: Tensor, quantities: Tensor, done: Tensor, terminated: Tensor,
        steps: Tensor, clip: Tensor,
    ) -> None:
        """Add one control step of the running worlds.

        Args:
            running: (N,) bool; all else is zero or false in the others.
            failed: (N,) bool, running worlds whose simulation failed; quantities are zero there.
            reward: (N,) raw reward.
            quantities: (Q, N) by name.
            done: (N,) bool, episodes that ended.
            terminated: (N,) bool, those of them that failed.
            steps: (N,) control steps of the episodes under way, this one included.
            clip: (N,) clips they follow.
        """
        self.returns += reward
        flags = torch.stack([running, failed, done, terminated]).to(reward.dtype)
        ended = flags[2]
        episodes = ended * torch.stack([steps.to(reward.dtype), self.returns])
        self._sums += torch.cat([quantities, flags[:3], episodes]).sum(dim=1)
        self._clips.index_add_(1, clip, flags[2:])
        self.returns *= 1.0 - ended

    def pool(self) -> None:
        """Add up the sums of all ranks; call it once an iteration, before they are read."""
        totals = [self._sums, self._clips]
        everything = sum_over_ranks(torch.cat([total.reshape(-1) for total in totals]))
        for total, part in zip(totals, everything.split([total.numel() for total in totals]), strict=True):
            total.copy_(part.view(total.shape))

    def read(self) -> dict[str, float]:
        """Means since the last ``clear``; episode figures are absent while no episode has ended."""
        *totals, count, failed, ended, length, total_return = self._sums.tolist()
        if not count:
            return {"episodes": 0.0}
        result = {name: total / count for name, total in zip(self._names, totals, strict=True)}
        if ended:
            result |= {
                "episode_length": length / ended,
                "episode_return": total_return / ended,
                "early_termination_rate": self.clip_early.sum().item() / ended,
            }
        return result | {"failed_worlds": failed / count, "episodes": ended}

    def clear(self) -> None:
        """Start the next iteration; episodes under way go on."""
        self._sums.zero_()
        self._clips.zero_()
