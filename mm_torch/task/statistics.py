"""What an iteration reports of its episodes: sums on the device, read once."""

from __future__ import annotations

import torch
from torch import Tensor

from mm_torch.maths.ranks import sum_over_ranks


class EpisodeStatistics:
    """Sums over the control steps of one iteration; written without host synchronisation.

    Args:
        num_envs: N.
        num_clips: C.
        device: where the sums live.
    """

    def __init__(self, num_envs: int, num_clips: int, device: torch.device) -> None:
        self.returns = torch.zeros(num_envs, device=device)  # of the episodes under way
        self._names: tuple[str, ...] = ()
        self._step_sums = torch.zeros(0, device=device)  # of the quantities of these names
        self._counts = torch.zeros(5, device=device)  # steps, failed; episodes ended, their steps, their return
        self.clip_done = torch.zeros(num_clips, device=device)
        self.clip_early = torch.zeros(num_clips, device=device)

    def add(
        self, running: Tensor, failed: Tensor, reward: Tensor, per_step: dict[str, Tensor], done: Tensor,
        terminated: Tensor, steps: Tensor, clip: Tensor,
    ) -> None:
        """Add one control step of the running worlds.

        Args:
            running: (N,) bool; reward and flags are zero or false in the others.
            failed: (N,) bool, running worlds whose simulation failed.
            reward: (N,) raw reward.
            per_step: quantities (N,) whose sum over the running worlds that did not fail is reported as a mean; always
                the same names.
            done: (N,) bool, episodes that ended.
            terminated: (N,) bool, those that failed.
            steps: (N,) control steps of the episodes under way, this one included.
            clip: (N,) clips they follow.
        """
        self.returns += reward
        if not self._names:
            self._names, self._step_sums = tuple(per_step), reward.new_zeros(len(per_step))
        self._step_sums += torch.where(running & ~failed, torch.stack(list(per_step.values())), 0.0).sum(dim=1)
        ended = done.to(reward.dtype)
        self._counts += torch.stack([running, failed, ended, ended * steps, ended * self.returns]).sum(dim=1)
        self.clip_done.index_add_(0, clip, ended)
        self.clip_early.index_add_(0, clip, (done & terminated).to(reward.dtype))
        self.returns *= 1.0 - ended

    def pool(self) -> None:
        """Add up the sums of all ranks; call it once an iteration, before they are read."""
        totals = [self._step_sums, self._counts, self.clip_done, self.clip_early]
        everything = sum_over_ranks(torch.cat([total.reshape(-1) for total in totals]))
        for total, part in zip(totals, everything.split([total.numel() for total in totals]), strict=True):
            total.copy_(part.view(total.shape))

    def read(self) -> dict[str, float]:
        """Means since the last ``clear``; episode figures are absent while no episode has ended."""
        count, failed, ended, length, total_return = self._counts.tolist()
        if not count:
            return {"episodes": 0.0}
        result = {name: total / count for name, total in zip(self._names, self._step_sums.tolist(), strict=True)}
        if ended:
            result |= {
                "episode_length": length / ended,
                "episode_return": total_return / ended,
                "early_termination_rate": self.clip_early.sum().item() / ended,
            }
        return result | {"failed_worlds": failed / count, "episodes": ended}

    def clear(self) -> None:
        """Start the next iteration; episodes under way go on."""
        for total in (self._step_sums, self._counts, self.clip_done, self.clip_early):
            total.zero_()
