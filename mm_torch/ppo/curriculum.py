"""Curricula that tighten the task as episodes stop ending early.

Both are small state machines of scalar tensors. They are advanced once per rollout, in place and without reading
anything back, so that the environment can hold on to the tensor it reads.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_State = dict[str, Tensor]


def early_rate(early_count: Tensor, done_count: Tensor) -> Tensor:
    """Share of finished episodes that ended early, () float32; 0 where none finished."""
    return early_count.float() / done_count.float().clamp(min=1.0)


def _load(owner: str, targets: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into live ones, after checking names and shapes."""
    if set(state) != set(targets):
        raise ValueError(f"{owner} state has keys {sorted(state)}, expected {sorted(targets)}")
    for name, target in targets.items():
        if state[name].shape != target.shape:
            raise ValueError(
                f"{owner} state {name!r} has shape {tuple(state[name].shape)}, expected {tuple(target.shape)}"
            )
        target.copy_(state[name])


class TerminationCurriculum:
    """Tighten the termination threshold while few episodes end early, loosen it while many do.

    An average of the early-termination rate below ``low`` (above ``high``) for ``patience`` rollouts in a row
    multiplies (divides) the threshold by ``factor``; it stays within ``[minimum, initial]``. Rollouts in which no
    episode finished change nothing.

    ===============  ==========================================================  ==
    ``threshold``    threshold in force, in the unit of ``initial`` (m)          ()
    ``average``      moving average of the early-termination rate, starts at 1   ()
    ``streak``       rollouts in a row on one side of the band, int64            ()
    ``direction``    side of the last rollout: -1 below, 0 inside, 1 above       ()
    ===============  ==========================================================  ==

    Args:
        initial: First and largest threshold.
        minimum: Smallest threshold.
        low: Rate below which the threshold tightens.
        high: Rate above which it loosens.
        factor: Multiplier of one tightening, in (0, 1).
        patience: Rollouts in a row that trigger a change.
        smoothing: Weight of the newest rate in the average.
        device: Where the tensors live.

    Raises:
        ValueError: Bounds are not ordered or ``factor`` lies outside (0, 1).

    Source: MuscleMimic's adaptive termination curriculum.
    """

    def __init__(
        self,
        *,
        initial: float = 0.5,
        minimum: float = 0.1,
        low: float = 0.1,
        high: float = 0.2,
        factor: float = 0.95,
        patience: int = 5,
        smoothing: float = 0.1,
        device: torch.device | str = "cpu",
    ) -> None:
        if not (0.0 < minimum <= initial and low <= high and 0.0 < factor < 1.0):
            raise ValueError(
                f"0 < minimum {minimum} <= initial {initial}, low {low} <= high {high} "
                f"and 0 < factor {factor} < 1 must hold; change the one that does not"
            )
        self.initial, self.minimum = initial, minimum
        self.low, self.high = low, high
        self.factor, self.patience, self.smoothing = factor, patience, smoothing
        self.threshold = torch.tensor(initial, device=device)
        self.average = torch.tensor(1.0, device=device)
        self.streak = torch.tensor(0, device=device)
        self.direction = torch.tensor(0, device=device)

    def update(self, early_count: Tensor, done_count: Tensor) -> None:
        """Advance by one rollout.

        Args:
            early_count: Episodes that ended early, ().
            done_count: Episodes that ended, ().
        """
        any_done = done_count > 0
        rate = early_rate(early_count, done_count)
        average = (1.0 - self.smoothing) * self.average + self.smoothing * rate
        direction = (average > self.high).long() - (average < self.low).long()
        streak = torch.where(direction == self.direction, self.streak + 1, torch.ones_like(self.streak))
        streak = torch.where(direction == 0, torch.zeros_like(streak), streak)
        act = streak >= self.patience
        moved = torch.where(direction < 0, self.threshold * self.factor, self.threshold / self.factor)
        threshold = torch.where(act, moved, self.threshold).clamp(self.minimum, self.initial)
        streak = torch.where(act, torch.zeros_like(streak), streak)
        self.threshold.copy_(torch.where(any_done, threshold, self.threshold))
        self.average.copy_(torch.where(any_done, average, self.average))
        self.streak.copy_(torch.where(any_done, streak, self.streak))
        self.direction.copy_(torch.where(any_done, direction, self.direction))

    def _tensors(self) -> _State:
        return {
            "threshold": self.threshold,
            "average": self.average,
            "streak": self.streak,
            "direction": self.direction,
        }

    def state_dict(self) -> _State:
        """Copies of the state tensors."""
        return {name: tensor.clone() for name, tensor in self._tensors().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state in place; raises ValueError for other keys or shapes."""
        _load("termination curriculum", self._tensors(), state)


class RewardCurriculum:
    """Grow some reward weights while few episodes end early.

    An average of the early-termination rate below ``threshold`` for ``patience`` rollouts in a row multiplies every
    weight by ``1 + growth``, up to its maximum. The first rate starts the average and counts for nothing else. Rollouts
    in which no episode finished change nothing. A weight that starts at 0 stays 0.

    =============  ========================================================  ====
    ``weights``    weights in force, in the order of ``names``               (W,)
    ``average``    moving average of the early-termination rate              ()
    ``streak``     rollouts in a row below the threshold, int64              ()
    ``started``    whether a first rate has been seen, bool                  ()
    =============  ========================================================  ====

    Args:
        initial: First weight of each reward term.
        maximum: Largest weight of each reward term, same keys.
        threshold: Rate below which a rollout counts.
        growth: Relative growth of one step.
        patience: Rollouts in a row that trigger a step.
        smoothing: Weight of the newest rate in the average.
        device: Where the tensors live.

    Raises:
        ValueError: ``initial`` and ``maximum`` name different terms.

    Source: MuscleMimic's reward curriculum of the velocity terms.
    """

    def __init__(
        self,
        initial: Mapping[str, float],
        maximum: Mapping[str, float],
        *,
        threshold: float = 0.08,
        growth: float = 0.02,
        patience: int = 5,
        smoothing: float = 0.2,
        device: torch.device | str = "cpu",
    ) -> None:
        if set(initial) != set(maximum):
            raise ValueError(f"initial names {sorted(initial)}, maximum names {sorted(maximum)}; name the same terms")
        self.names = tuple(initial)
        self.threshold, self.growth = threshold, growth
        self.patience, self.smoothing = patience, smoothing
        self.maximum = torch.tensor([maximum[name] for name in self.names], device=device)
        self.weights = torch.tensor([initial[name] for name in self.names], device=device)
        self.average = torch.tensor(0.0, device=device)
        self.streak = torch.tensor(0, device=device)
        self.started = torch.tensor(False, device=device)

    def weight(self, name: str) -> Tensor:
        """The weight of one reward term, () view that follows every update."""
        return self.weights[self.names.index(name)]

    def update(self, early_count: Tensor, done_count: Tensor) -> None:
        """Advance by one rollout.

        Args:
            early_count: Episodes that ended early, ().
            done_count: Episodes that ended, ().
        """
        any_done = done_count > 0
        rate = early_rate(early_count, done_count)
        average = torch.where(self.started, (1.0 - self.smoothing) * self.average + self.smoothing * rate, rate)
        counts = self.started & (average < self.threshold)
        streak = torch.where(counts, self.streak + 1, torch.zeros_like(self.streak))
        act = any_done & (streak >= self.patience)
        grown = torch.minimum(self.weights * (1.0 + self.growth), self.maximum)
        self.weights.copy_(torch.where(act, grown, self.weights))
        self.average.copy_(torch.where(any_done, average, self.average))
        streak = torch.where(act, torch.zeros_like(streak), streak)
        self.streak.copy_(torch.where(any_done, streak, self.streak))
        self.started.logical_or_(any_done)

    def _tensors(self) -> _State:
        return {"weights": self.weights, "average": self.average, "streak": self.streak, "started": self.started}

    def state_dict(self) -> _State:
        """Copies of the state tensors."""
        return {name: tensor.clone() for name, tensor in self._tensors().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state in place; raises ValueError for other keys or shapes."""
        _load("reward curriculum", self._tensors(), state)
