"""Running statistics that bring observations and rewards to unit scale.

Statistics are kept in float64 (a run of 1e10 samples would stall a float32 count) and applied in float32. Updating and
applying are two separate calls, so that one rollout and the update made from it see the same frozen numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mm_torch.maths.ranks import pooled

BATCH_VARIANCE_FLOOR = 1e-6
"""Added to each batch variance: a column that never moves keeps a standard deviation of at least 1e-3."""
DIVISOR_EPSILON = 1e-8
"""Added to the variance under the square root when dividing."""


def batch_moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squared deviations of the rows that a mask keeps, accumulated in float64.

    Args:
        x: Samples, (N, D).
        mask: Rows to count, (N,) bool. The values of other rows are ignored, even where they are not finite.

    Returns:
        Count (), mean (D,) and squared deviations from that mean (D,), float64. All zero where no row is kept.
    """
    kept = torch.where(mask.unsqueeze(-1), x, torch.zeros_like(x))
    count = mask.sum(dtype=torch.float64)
    divisor = count.clamp(min=1.0)
    mean = kept.sum(0, dtype=torch.float64) / divisor
    pivot = mean.to(x.dtype)
    centred = torch.where(mask.unsqueeze(-1), kept - pivot, torch.zeros_like(kept))
    squares = centred.square().sum(0, dtype=torch.float64)
    return count, mean, (squares - count * (mean - pivot.double()).square()).clamp(min=0.0)


def merge_moments(
    mean: Tensor, var: Tensor, count: Tensor, batch_count: Tensor, batch_mean: Tensor, batch_squares: Tensor
) -> None:
    """Fold the moments of a batch into running statistics, in place.

    ``delta = m_b - m``; ``m += delta n_b / n``; ``var = (var c + s_b + delta^2 c n_b / n) / n`` with ``n = c + n_b``.

    Args:
        mean: Running mean, (D,) float64, written.
        var: Running population variance, (D,) float64, written.
        count: Running sample count, () float64, written; greater than zero.
        batch_count: Samples in the batch, ().
        batch_mean: Mean of the batch, (D,).
        batch_squares: Sum of squared deviations from ``batch_mean``, (D,).

    Source: Chan, Golub and LeVeque (1979), pairwise update of the variance, equation 1.5b.
    """
    total = count + batch_count
    delta = batch_mean - mean
    squares = var * count + batch_squares + delta.square() * (count * batch_count / total)
    mean.add_(delta * (batch_count / total))
    var.copy_(squares / total)
    count.copy_(total)


class ObservationNormaliser(nn.Module):
    """Subtract the running mean of each observation entry and divide by its standard deviation.

    ``y = (x - mean) / sqrt(var + 1e-8)``, clamped to ``[-clip, clip]`` where ``clip`` is given. ``forward`` reads the
    statistics, only ``update`` writes them. A row with a non-finite entry never enters the statistics; it is counted.

    =============  ============================================================  ======
    ``mean``       running mean, float64                                         (O,)
    ``var``        running population variance, float64                          (O,)
    ``count``      samples seen, starts at 1e-6, float64                         ()
    ``rejected``   rows left out because an entry was not finite, int64          ()
    =============  ============================================================  ======

    Args:
        dim: Observation length O.
        clip: Largest absolute normalised value, or None for no bound.

    Source: MuscleMimic's ``RunningMeanStd`` has the same constants; it also updates inside each forward pass, see
        ``upstream_forward``, has no bound and lets non-finite rows in.
    """

    def __init__(self, dim: int, *, clip: float | None) -> None:
        super().__init__()
        if clip is not None and clip <= 0.0:
            raise ValueError(f"clip is {clip}; give a positive bound, or None for no bound")
        self.dim = dim
        self.clip = clip
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("var", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(1e-6, dtype=torch.float64))
        self.register_buffer("rejected", torch.tensor(0, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the statistics as they stand.

        Args:
            x: Observations, (..., O).

        Returns:
            Normalised observations, same shape and dtype.
        """
        inverse_std = torch.rsqrt(self.var + 1e-8).to(x.dtype)  # a literal: TorchScript reads no module constants
        y = (x - self.mean.to(x.dtype)) * inverse_std
        clip = self.clip
        if clip is not None:
            y = y.clamp(-clip, clip)
        return y

    @torch.jit.ignore
    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Moments of the finite rows of a batch; rejected rows are added to ``rejected``.

        Args:
            x: Observations, (..., O).

        Returns:
            Count (), mean (O,), squared deviations (O,) for ``merge``, of this rank.

        Raises:
            ValueError: The last axis is not O.
        """
        if x.shape[-1] != self.dim:
            raise ValueError(f"observation has {x.shape[-1]} entries, the normaliser {self.dim}; check the layout")
        rows = x.detach().reshape(-1, self.dim)
        finite = torch.isfinite(rows).all(-1)
        self.rejected.add_((~finite).sum())
        return batch_moments(rows, finite)

    @torch.jit.ignore
    def merge(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        """Fold moments of a batch into the statistics, in place, with the variance floor added."""
        merge_moments(self.mean, self.var, self.count, count, mean, squares + BATCH_VARIANCE_FLOOR * count)

    @torch.jit.ignore
    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Fold a batch into the statistics, in place and without a device synchronisation; of all ranks together.

        Args:
            x: Observations, (..., O).
        """
        self.merge(*pooled(self.moments(x)))

    @torch.jit.ignore
    def upstream_forward(self, x: Tensor) -> Tensor:
        """Update with ``x`` first, then normalise it with the new statistics, as the original layer does.

        The original also pushes one row of zeros at initialisation; call ``update(torch.zeros(1, O))`` for it.
        """
        self.update(x)
        return self(x)


class RewardNormaliser(nn.Module):
    """Divide rewards by the standard deviation of the discounted return, one running return per environment.

    ``G = gamma G + r``; ``r / sqrt(var(G) + 1e-8)``, no mean shift. ``G`` restarts at 0 after an episode ends, so that
    its last reward does not leak into the next one. With ``upstream=True``: ``G = gamma (1 - done) G + r``, where the
    last reward of an episode seeds the return of the next.

    =============  ============================================================  ======
    ``returns``    discounted return so far in each environment, float64         (N,)
    ``mean``       running mean of the returns, float64                          (1,)
    ``var``        running population variance of the returns, float64           (1,)
    ``count``      returns seen, starts at 1e-4, float64                         ()
    ``rejected``   rewards left out because they were not finite, int64          ()
    =============  ============================================================  ======

    Args:
        num_envs: Number of environments N.
        gamma: Discount per control step.
        upstream: Reproduce the original's return at episode ends.

    Source: MuscleMimic's ``NormalizeVecReward``; Engstrom et al. (2020), "Implementation matters in deep policy
        gradients", section 3 (reward scaling).
    """

    def __init__(self, num_envs: int, gamma: float, *, upstream: bool = False) -> None:
        super().__init__()
        self.gamma = gamma
        self.upstream = upstream
        self.register_buffer("returns", torch.zeros(num_envs, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("var", torch.ones(1, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))
        self.register_buffer("rejected", torch.tensor(0, dtype=torch.int64))

    def forward(self, reward: Tensor) -> Tensor:
        """Scale rewards of any shape with the statistics as they stand."""
        return reward * torch.rsqrt(self.var + DIVISOR_EPSILON).to(reward.dtype)

    @torch.no_grad()
    def update(self, reward: Tensor, done: Tensor, mask: Tensor | None = None) -> None:
        """Advance the returns by one step and fold those of all ranks into the statistics, in place and on the device.

        Args:
            reward: Raw reward of the step, (N,).
            done: The episode ended with this step, (N,) bool.
            mask: Environments that took the step, (N,) bool; None means all. A non-finite reward is left out and its
                environment's return restarts at 0.

        Raises:
            ValueError: Shapes differ from (N,).
        """
        if reward.shape != self.returns.shape or done.shape != self.returns.shape:
            raise ValueError(
                f"reward {tuple(reward.shape)} and done {tuple(done.shape)} must both be {tuple(self.returns.shape)}"
            )
        stepped = torch.ones_like(done) if mask is None else mask
        finite = torch.isfinite(reward)
        kept = stepped & finite
        zeros = torch.zeros_like(self.returns)
        before = torch.where(done, zeros, self.returns) if self.upstream else self.returns
        after = self.gamma * before + torch.where(kept, reward.double(), zeros)
        count, mean, squares = pooled(batch_moments(after.unsqueeze(-1), kept))
        merge_moments(self.mean, self.var, self.count, count, mean, squares)
        self.rejected.add_((stepped & ~finite).sum())
        restart = ~finite if self.upstream else done | ~finite
        self.returns.copy_(torch.where(stepped, torch.where(restart, zeros, after), self.returns))
