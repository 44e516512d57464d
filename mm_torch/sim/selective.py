"""Native physics that steps some of its worlds: the evaluation's, whose clips end at different times."""

from __future__ import annotations

import torch
from torch import Tensor

from mm_torch.sim.native import NativePhysics
from sim_models.embodiment import Embodiment


class SelectivePhysics(NativePhysics):
    """``NativePhysics`` whose ``step`` leaves the worlds that ``running`` does not mark as they are, at no cost.

    Its tensors always have all rows, so that whatever is computed from them is computed in the same way however many
    worlds run: what a world does depends neither on its row nor on the others.

    ========= ============================================ =========
    running   worlds that ``step`` advances; the caller's  (N,) bool
    ========= ============================================ =========

    Args:
        body: embodiment.
        num_envs: number of worlds.
        threads: size of the thread pool; 0 takes all cores.
    """

    def __init__(self, body: Embodiment, num_envs: int, threads: int = 0) -> None:
        super().__init__(body, num_envs, threads)
        self.running = torch.ones(num_envs, dtype=torch.bool)

    def step(self, excitation: Tensor) -> None:
        """See ``Physics.step``; worlds that do not run have not failed."""
        running = self.running.numpy()
        self._views["ctrl"][running] = excitation.numpy()[running]
        self._advance(self.running)
