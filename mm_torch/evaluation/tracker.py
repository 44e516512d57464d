"""The deterministic policy on every clip of a bank, each from its first frame, whatever else runs beside it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from mm_torch import build
from mm_torch.config.load import RecipeError
from mm_torch.config.schema import Recipe
from mm_torch.evaluation.perturbation import Push, Pushes, weakened
from mm_torch.maths import ranks
from mm_torch.motion.bank import ReferenceBank
from mm_torch.ppo.policy import Agent
from mm_torch.task.metrics import tracking_errors

ERRORS = (
    "joint_position_error", "joint_velocity_error", "root_position_error", "root_yaw_error", "relative_site_error",
    "absolute_site_error",
)
ROWS = 64  # of every tensor; always the same, since matrix products of other sizes round differently


@dataclass(frozen=True)
class ClipResult:
    """One clip: frames tracked of frames to track, how it ended, return, and mean errors over the tracked frames."""

    clip: str
    frames: int
    episode_length: int
    early_termination: bool
    episode_return: float
    errors: dict[str, float]

    @property
    def frame_coverage(self) -> float:
        """Share of the clip's control steps that were tracked; 1 for a clip played to its end."""
        return self.episode_length / self.frames

    def row(self) -> dict[str, float | str]:
        """Columns of ``per_clip.csv``; the same names as the summary's."""
        return {
            "clip": self.clip, "early_termination_rate": float(self.early_termination),
            "frame_coverage": self.frame_coverage, **self.errors,
            "episode_length": self.episode_length, "episode_return": self.episode_return,
        }


@dataclass(frozen=True, eq=False)
class Trace:
    """What was recorded of one clip; frame 0 is the state it was reset to, a state that failed is left out.

    ============ ======================================================== ============
    clip         name of the motion
    number       of the motion in the bank
    qpos, qvel   states, double precision                                 (F, Q) (F, V)
    activation   of the muscles                                           (F, M)
    excitation   held in the control step that ended at the frame         (F, M)
    ref_qpos     reference that was due, shifted to the episode's origin  (F, Q)
    rewards      unweighted reward terms by name; NaN at frame 0          (F,)
    total        reward; NaN at frame 0                                   (F,)
    finished     whether the clip was tracked to its end
    ============ ======================================================== ============
    """

    clip: str
    number: int
    qpos: np.ndarray
    qvel: np.ndarray
    activation: np.ndarray
    excitation: np.ndarray
    ref_qpos: np.ndarray
    rewards: dict[str, np.ndarray]
    total: np.ndarray
    finished: bool


@dataclass(frozen=True)
class Conditions:
    """What an evaluation changes.

    ========= ===================================================================== =======================
    seed      of pushes and sampled actions                                         int
    sampled   actions are drawn from the policy, as in training                     bool
    push      impulses from random directions; None: nobody pushes                  Push
    strength  share of its force that a muscle or a group of muscles keeps          name to factor
    worlds    clips that run at the same time; the results do not depend on it      1 to ``ROWS``
    ========= ===================================================================== =======================
    """

    seed: int = 0
    sampled: bool = False
    push: Push | None = None
    strength: tuple[tuple[str, float], ...] = ()
    worlds: int = ROWS


UNCHANGED = Conditions()


class Tracker:
    """Worlds in which a policy tracks the clips of a bank; a world whose clip ended takes the next one.

    Every clip starts from frame 0 and ends with its last frame or an early termination. On the native back end the results
    are the same bit for bit in every run, and do not depend on ``worlds`` nor on which other clips there are. Policy and
    drive belong to the healthy body: weakened muscles change the simulation alone.

    Args:
        recipe: as made by ``evaluation_recipe``.
        bank: clips.
        threads: of the physics pool.
        conditions: perturbations.

    Raises:
        RecipeError: a muscle or a site that the body does not have, or worlds out of range.
    """

    def __init__(
        self, recipe: Recipe, bank: ReferenceBank, threads: int = 0, conditions: Conditions = UNCHANGED
    ) -> None:
        if not 1 <= conditions.worlds <= ROWS:
            raise RecipeError(f"worlds={conditions.worlds}: must lie between 1 and {ROWS}")
        self.recipe, self.bank, self.conditions = recipe, bank, conditions
        self.body = build.build_body(recipe)
        self.simulated = weakened(self.body, dict(conditions.strength))
        self.physics = build.build_physics(recipe, self.simulated, ROWS, threads)
        self.physics.body = self.body
        self.env = build.build_env(recipe, self.physics, bank)
        self._pushes = None if conditions.push is None else Pushes(self.simulated, conditions.push, bank.fps)

    @torch.no_grad()
    def track(
        self, agent: Agent, seed: int | None = None, record: Callable[[Trace], None] | None = None,
        clips: Sequence[int] | None = None,
    ) -> list[ClipResult]:
        """Run the policy over clips.

        Args:
            agent: networks.
            seed: of pushes and sampled actions; None: that of the conditions.
            record: is given the trace of each clip as it ends.
            clips: their numbers in the bank; None: every clip.

        Returns:
            One result a clip, in the bank's order.
        """
        agent = agent.to(self.env.device)
        self.env.use_reflexes(agent.reflexes)
        seed = self.conditions.seed if seed is None else seed
        self._start(seed, range(self.bank.num_clips) if clips is None else clips)
        hold = self.env.task.action.hold_steps
        held = hold
        while self._alive.any() or self._waiting:
            if held == hold or not self._alive.any():  # the policy acts in all worlds at the same time
                self._refill(record is not None)
                action, held = self._act(agent), 0
            self._push()
            held += 1
            taken = self.env.advance(action, self._alive, observed=held == hold)
            self._book(taken.reward, taken.terminated, record is not None)
            ended = self._alive & (taken.terminated | taken.truncated)
            self._alive &= ~ended
            for row in ended.nonzero().flatten().tolist():
                self._close(row, record)
        self.physics.check()
        return [self._results[clip] for clip in sorted(self._results)]

    # -- what happens in the loop -------------------------------------------------------------------------------------
    def _start(self, seed: int, clips: Sequence[int]) -> None:
        device, env = self.env.device, self.env
        self._seed = seed
        self._waiting = sorted(clips, key=lambda c: (-int(self.bank.lengths[c]), c))  # longest first
        self._results: dict[int, ClipResult] = {}
        self._alive = torch.zeros(ROWS, dtype=torch.bool, device=device)
        self._length = torch.zeros(ROWS, dtype=torch.long, device=device)
        self._early = torch.zeros_like(self._alive)
        self._sums = {name: torch.zeros(ROWS, device=device) for name in (*ERRORS, "return")}
        self._frames: list[list[dict[str, Tensor]]] = [[] for _ in range(ROWS)]
        self._noise = [torch.Generator() for _ in range(ROWS)]
        self._due: list[dict[int, np.ndarray]] = [{} for _ in range(ROWS)]
        zeros = torch.zeros(ROWS, dtype=torch.long, device=device)
        env.assign(zeros, zeros)
        env.reset()

    def _refill(self, recording: bool) -> None:
        free = (~self._alive[: self.conditions.worlds]).nonzero().flatten().tolist()[: len(self._waiting)]
        if not free:
            return
        rows = torch.zeros_like(self._alive)
        clips = self.env.clip.clone()
        for row in free:
            clip = self._waiting.pop(0)
            clips[row], rows[row] = clip, True
            name = zlib.crc32(self.bank.names[clip].encode())
            self._noise[row].manual_seed(name * 1000 + self._seed)
            if self._pushes is not None:
                self._due[row] = self._pushes.schedule(name, self._seed, int(self.bank.lengths[clip]) - 1)
        self.env.assign(clips, torch.zeros_like(clips))
        self.env.reset(TensorDict({"_reset": rows[:, None]}, batch_size=[ROWS], device=self.env.device))
        self._alive |= rows
        self._early &= ~rows
        for total in (self._length, *self._sums.values()):
            total.masked_fill_(rows, 0)
        if recording:
            nothing = torch.full_like(self._sums["return"], float("nan"))
            self._remember(rows, nothing, {name: nothing for name in self.env.task.reward})

    def _act(self, agent: Agent) -> Tensor:
        if not self.conditions.sampled:
            return agent.mean_action(self.env.current_observation)
        mean, log_std = agent.nets.policy(agent.normaliser(self.env.current_observation))
        noise = torch.stack([torch.randn(mean.shape[1], generator=g) for g in self._noise]).to(mean)
        return mean + log_std.exp() * noise

    def _push(self) -> None:
        if self._pushes is None:
            return
        now = self._length.tolist()
        alive = self._alive.nonzero().flatten().tolist()
        due = {row: self._due[row][now[row]] for row in alive if now[row] in self._due[row]}
        if not due:
            return
        state, rows = self.env.physics.state, torch.zeros_like(self._alive)
        qvel = state.qvel.clone()
        for row, impulse in due.items():
            change = self._pushes.velocity_change(state.qpos[row].double().cpu().numpy(), impulse)
            qvel[row] += torch.as_tensor(change, dtype=qvel.dtype, device=qvel.device)
            rows[row] = True
        self.env.physics.reset(rows, state.qpos.clone(), qvel, state.act.clone())

    def _book(self, earned: Tensor, terminated: Tensor, recording: bool) -> None:
        env, context = self.env, self.env.context()
        tracked = self._alive & ~env.physics.state.failed
        self._length += self._alive
        self._early |= terminated & self._alive
        self._sums["return"] += earned
        for name, value in tracking_errors(context).items():
            self._sums[name] += torch.where(tracked, value, 0.0)
        if recording:
            parts = dict(zip(env.reward.names, env.reward(context)[1], strict=True))
            self._remember(tracked, earned, parts)

    def _remember(self, rows: Tensor, earned: Tensor, parts: dict[str, Tensor]) -> None:
        context = self.env.context()
        state = context.state
        now = {
            "qpos": state.qpos, "qvel": state.qvel, "activation": state.act, "ref_qpos": context.ref_qpos,
            "excitation": context.excitation.clamp(0.0, 1.0), "total": earned, **{f"reward {n}": p for n, p in parts.items()},
        }
        now = {name: value.clone() for name, value in now.items()}
        for row in rows.nonzero().flatten().tolist():
            self._frames[row].append({name: value[row] for name, value in now.items()})

    def _close(self, row: int, record: Callable[[Trace], None] | None) -> None:
        clip, steps = int(self.env.clip[row]), int(self._length[row])
        early = bool(self._early[row])
        sums = {name: total[row].item() for name, total in self._sums.items()}
        self._results[clip] = ClipResult(
            clip=self.bank.names[clip], frames=int(self.bank.lengths[clip]) - 1, episode_length=steps,
            early_termination=early, episode_return=sums["return"], errors={n: sums[n] / steps for n in ERRORS},
        )
        if record is not None:
            frames, self._frames[row] = self._frames[row], []
            arrays = {name: torch.stack([f[name] for f in frames]).double().cpu().numpy() for name in frames[0]}
            rewards = {n.removeprefix("reward "): arrays.pop(n) for n in list(arrays) if n.startswith("reward ")}
            record(Trace(clip=self.bank.names[clip], number=clip, rewards=rewards, finished=not early, **arrays))


def track_together(
    tracker: Tracker, agent: Agent, seed: int | None = None, record: Callable[[Trace], None] | None = None
) -> list[ClipResult]:
    """Every clip of the tracker's bank once, shared out among the ranks by length.

    Args:
        tracker: of the same clips and conditions on every rank.
        agent: networks, the same on every rank.
        seed: see ``Tracker.track``.
        record: is given the traces of this rank's clips.

    Returns:
        One result a clip, in the bank's order, as one process finds them; on ranks after the first nothing.
    """
    own = ranks.deal(tracker.bank.lengths.tolist(), ranks.world_size())[ranks.rank()]
    results = tracker.track(agent, seed, record, own)
    found = ranks.merge_on_first({clip: asdict(result) for clip, result in zip(own, results, strict=True)})
    return [ClipResult(**found[clip]) for clip in sorted(found)]


def evaluation_recipe(recipe: Recipe, motions: str | None, thresholds: dict[str, float | None]) -> Recipe:
    """The recipe with an evaluation's thresholds, without horizon, on given motions."""
    return replace(recipe, motions=motions, task=replace(recipe.task, termination=thresholds, horizon_steps=2**31))

