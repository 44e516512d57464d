"""Rollouts from the environment to the learner, through TorchRL's collector."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from tensordict import TensorDict
from torchrl.collectors import Collector

from mm_torch.ppo.policy import RolloutPolicy
from mm_torch.task.env import MimicEnv


class RolloutLoader:
    """Yields one rollout (N, T) an iteration; its length is known, so that Lightning never collects ahead.

    Args:
        env: environment; its running episodes go on from rollout to rollout.
        policy: sampling policy, shared with the learner.
        rollout_steps: T.
        iterations: number of rollouts.
    """

    def __init__(self, env: MimicEnv, policy: RolloutPolicy, rollout_steps: int, iterations: int) -> None:
        self.env, self.policy = env, policy
        self.rollout_steps, self.iterations = rollout_steps, iterations
        self.collect_seconds = 0.0  # of the last rollout

    def __len__(self) -> int:
        """Number of rollouts still to come."""
        return self.iterations

    def __iter__(self) -> Iterator[TensorDict]:
        """Collect and yield rollouts."""
        rng, weights = torch.get_rng_state(), {name: x.clone() for name, x in self.policy.state_dict().items()}
        collector = Collector(
            self.env, self.policy, frames_per_batch=self.env.batch_size[0] * self.rollout_steps, total_frames=-1,
            auto_register_policy_transforms=False, trust_policy=True, track_traj_ids=False, no_cuda_sync=True,
        )
        torch.set_rng_state(rng)  # building a collector tries the policy once; a resumed run must not see that
        self.policy.load_state_dict(weights)
        batches = iter(collector)
        for _ in range(self.iterations):
            start = time.perf_counter()
            batch = next(batches)
            self.collect_seconds = time.perf_counter() - start
            yield batch
