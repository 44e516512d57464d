"""The imitation environment: N worlds of one embodiment behind ``torchrl.envs.EnvBase``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Composite, Unbounded
from torchrl.envs import EnvBase

from mm_torch.config.schema import TaskConfig
from mm_torch.maths.replay import Replay
from mm_torch.motion.bank import ReferenceBank, rows_of
from mm_torch.motion.sampling import ClipSampler, draw_frames
from mm_torch.sim.physics import Physics
from mm_torch.task import observation
from mm_torch.task.action import excite, feedback, spread
from mm_torch.task.context import BodyTensors, StepContext
from mm_torch.task.metrics import tracking_errors
from mm_torch.task.reflex import Balance, Reflexes
from mm_torch.task.reward import Reward
from mm_torch.task.statistics import EpisodeStatistics
from mm_torch.task.termination import Termination
from sim_models.drive import joint_drive

if TYPE_CHECKING:
    from mm_torch.sim.guard import FlightRecorder

log = logging.getLogger(__name__)


class ControlStep(NamedTuple):
    """What one control step of N worlds earned and ended: reward (N,), terminated (N,) bool, truncated (N,) bool."""

    reward: Tensor
    terminated: Tensor
    truncated: Tensor


class MimicEnv(EnvBase):
    """Imitate reference motions with muscles.

    One control step: action to excitation, ``body.substeps`` of physics, the reference advances by one frame, the context
    is filled once, and the term tables give reward, termination and observation. The policy acts every
    ``task.action.hold_steps`` control steps; its reward is their mean, an episode that ends in between earns no more. The
    end of a clip and the horizon are truncations. ``("next", "observation")`` keeps the true last observation of an episode.

    A world whose simulation failed (error or non-finite state) terminates: its reward is 0, its last observation is the one
    before, and it is counted, recorded and reset. Its state is never repaired.

    ============== ============ ==========================================
    observation    (N, O)       terms of ``task.observation``
    action         (N, A)       unbounded; see ``task.action``
    reward         (N, 1)
    terminated     (N, 1) bool  the imitation failed
    truncated      (N, 1) bool  clip or horizon ended
    ============== ============ ==========================================

    Args:
        physics: simulator.
        bank: reference motions on the physics' device.
        task: term tables and episode rules.
        sampler: which clips episodes start from.
        seed: of clip and frame draws.
        recorder: flight recorder for failed worlds.
    """

    def __init__(
        self,
        physics: Physics,
        bank: ReferenceBank,
        task: TaskConfig,
        sampler: ClipSampler | None = None,
        seed: int = 0,
        recorder: FlightRecorder | None = None,
    ) -> None:
        n, device = physics.num_envs, physics.device
        super().__init__(device=device, batch_size=torch.Size([n]))
        self.physics, self.bank, self.task, self.recorder = physics, bank, task, recorder
        self.sampler = sampler or ClipSampler(bank.num_clips, device=device)
        self.body_tensors = BodyTensors(physics.body, device)
        self.reward, self.termination = Reward(task.reward, task.penalty, device), Termination(task.termination, device)
        self.threshold_scale, self.reward_weights = self.termination.scale, self.reward.weights
        self._generator = torch.Generator(device=device)
        self._generator.manual_seed(seed)
        self._assigned: tuple[Tensor, Tensor] | None = None
        self._restored = False

        muscles = physics.body.model.nu
        self.clip, self.frame, self.steps = (torch.zeros(n, dtype=torch.long, device=device) for _ in range(3))
        self.origin = torch.zeros(n, 3, device=device)
        self.drive = (
            torch.as_tensor(joint_drive(physics.body), dtype=torch.float32, device=device)
            if task.action.space == "joint" else None
        )
        self.has_feedback = bool(task.action.stiffness or task.action.damping)
        self.balance = Balance(physics.body, device) if task.action.reflexes else None
        self.balance_now = torch.zeros(n, Balance.size, device=device)  # of the present state, where there are reflexes
        self._action = torch.zeros(n, muscles if self.drive is None else len(self.drive), device=device)
        self._excitation = torch.zeros(n, muscles, device=device)
        self._running, self._fresh = (torch.zeros(n, dtype=torch.bool, device=device) for _ in range(2))
        self._lookahead = torch.tensor(task.lookahead_steps, dtype=torch.long, device=device)
        self.layout = observation.layout(self.context(), task.observation)
        names = (*(f"reward_{name}" for name in self.reward.names), *tracking_errors(self.context()), "reward")
        self.statistics = EpisodeStatistics(names, n, bank.num_clips, device)
        self._observation = torch.zeros(n, self.layout[-1].end, device=device)
        self._make_specs()
        on_gpu = device.type == "cuda"
        self.use_reflexes(None)
        self._judge = {observed: Replay(lambda seen=observed: self._judge_work(seen), on_gpu) for observed in (False, True)}
        self._place = Replay(self._place_work, on_gpu)
        self._look = Replay(self._look_work, on_gpu)

    def _make_specs(self) -> None:
        n, device = self.batch_size[0], self.device

        def flag() -> Binary:
            return Binary(1, shape=(n, 1), dtype=torch.bool, device=device)

        self.observation_spec = Composite(observation=Unbounded(self._observation.shape, device=device), shape=(n,))
        self.action_spec = Unbounded(self._action.shape, device=device)
        self.reward_spec = Unbounded((n, 1), device=device)
        self.full_done_spec = Composite(done=flag(), terminated=flag(), truncated=flag(), shape=(n,))

    @property
    def current_observation(self) -> Tensor:
        """(N, O) observation that the next action is chosen from, resets included."""
        return self._observation

    def use_reflexes(self, reflexes: Reflexes | None) -> None:
        """Let the reflexes of the policy that acts, an ``Agent``'s, act from now on; None: joint feedback as configured."""
        self._reflexes = () if reflexes is None else (reflexes,)  # in a tuple: a module of the policy's, not of ours
        self._excite = Replay(self._excite_work, self.device.type == "cuda")

    # -- the control step ---------------------------------------------------------------------------------------------
    def context(self) -> StepContext:
        """The present control step, for the term kernels."""
        return StepContext(
            body=self.body_tensors, state=self.physics.state, bank=self.bank, clip=self.clip, frame=self.frame,
            origin=self.origin, action=self._action, excitation=self._excitation, lookahead=self._lookahead,
        )

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        hold = self.task.action.hold_steps
        running = torch.ones(self.batch_size, dtype=torch.bool, device=self.device)
        taken = self.advance(tensordict["action"], running, observed=hold == 1)
        for step in range(1, hold):
            running = ~(taken.terminated | taken.truncated)
            following = self.advance(tensordict["action"], running, observed=step == hold - 1)
            taken = ControlStep(
                taken.reward + following.reward, taken.terminated | following.terminated,
                taken.truncated | following.truncated,
            )
        return TensorDict(
            {
                "observation": self._observation.clone(),
                "reward": taken.reward[:, None] / hold,
                "done": (taken.terminated | taken.truncated)[:, None],
                "terminated": taken.terminated[:, None],
                "truncated": taken.truncated[:, None],
            },
            batch_size=self.batch_size,
            device=self.device,
        )

    @torch.inference_mode()
    def advance(self, action: Tensor, running: Tensor, observed: bool = True) -> ControlStep:
        """One control step of the running worlds; the others' episodes stay as they are.

        Where the physics can wait, worlds that do not run keep their state, and every healthy world is observed once an
        action. Where it cannot, running worlds are observed in every step, so that an episode's last one is kept.

        Args:
            action: (N, A) held action of the policy.
            running: (N,) bool.
            observed: whether the next action is chosen after this step.

        Returns:
            Reward and flags of this control step; zero and false in worlds that do not run.
        """
        self._action.copy_(action)
        self._running.copy_(running)
        self.physics.step(self._excite(), self._running)
        return ControlStep(*(x.clone() for x in self._judge[observed or not self.physics.can_wait]()))

    def _excite_work(self) -> Tensor:
        """Excitation (N, M) in [0, 1] of the held action."""
        driven, running, following = self._action, self._running, self._following()
        if self._reflexes:
            driven = driven + self._reflexes[0](*self.joint_errors(following), self.balance_now)
        elif self.has_feedback:
            driven = driven + feedback(*self.joint_errors(following), self.task.action)
        excitation = excite(spread(driven, self.drive), self.action_base(following), self.task.action)
        torch.where(running[:, None], excitation, self._excitation, out=self._excitation)
        excitation = self._excitation.clamp_min(0.0)
        if self.recorder is not None:  # a world that waits starts anew, too: its record does not follow from the one before
            self.recorder.record(self.physics.state, excitation, (self.steps == 0) | ~running)
        return excitation

    def _judge_work(self, observed: bool) -> tuple[Tensor, Tensor, Tensor]:
        """What the step that was taken earned and ended: reward (N,), terminated (N,), truncated (N,)."""
        running, failed = self._running, self.physics.state.failed
        if self.recorder is not None:
            self.recorder.freeze(failed)
        context = self.context()
        self.frame.copy_(torch.minimum(self.frame + running, context.last))
        self.steps += running

        terminated = (self.termination(context) | failed) & running
        truncated = ((self.frame >= context.last) | (self.steps >= self.task.horizon_steps)) & ~terminated & running
        value, parts = self.reward(context)
        quantities = torch.cat([parts, torch.stack([*tracking_errors(context).values(), value])])
        quantities.masked_fill_(~running | failed, 0.0)
        if observed:
            self._observe(context, ~failed if self.physics.can_wait else running & ~failed)
        if self.balance is not None:
            self.balance_now.copy_(self.balance(context))
        self.statistics.add(
            running, running & failed, quantities[-1], quantities, terminated | truncated, terminated, self.steps, self.clip
        )
        return quantities[-1], terminated, truncated

    def _following(self) -> Tensor:
        """(N,) rows of the bank that the coming control step leads to."""
        return self.bank.row(self.clip, self.frame + 1)

    def action_base(self, row: Tensor | None = None) -> Tensor | float:
        """Excitation of a zero action in the coming control step: (N, M), or the configured offset.

        Args:
            row: (N,) rows of the bank that the step leads to, if known.
        """
        if self.task.action.base == "reference" and self.bank.act is not None:
            return rows_of(self.bank.act, self._following() if row is None else row).float()
        return self.task.action.offset

    def joint_errors(self, row: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Next reference minus own positions (N, D) rad and velocities (N, D) rad/s of the independent joints; see above."""
        row, ref, state = self._following() if row is None else row, self.bank.frames, self.physics.state
        qpos, dof = self.body_tensors.free_qpos, self.body_tensors.free_dof
        position, velocity = rows_of(ref.qpos, row) - state.qpos, rows_of(ref.qvel, row) - state.qvel
        return position.index_select(1, qpos), velocity.index_select(1, dof)

    def _observe(self, context: StepContext, rows: Tensor) -> None:
        torch.where(
            rows[:, None], observation.observe(context, self.task.observation), self._observation, out=self._observation
        )

    # -- resets -------------------------------------------------------------------------------------------------------
    def assign(self, clip: Tensor, frame: Tensor) -> None:
        """Let the next full reset start every world at a given clip and frame, (N,) each, instead of drawing them."""
        self._assigned = (clip.to(self.device), frame.to(self.device))

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDictBase:
        mask = tensordict.get("_reset", None) if tensordict is not None else None
        if mask is None and self._restored:
            self._restored = False
        else:
            rows = torch.ones(self.batch_size, dtype=torch.bool, device=self.device) if mask is None else mask.view(-1)
            self.begin_episodes(rows)
        off = torch.zeros(*self.batch_size, 1, dtype=torch.bool, device=self.device)
        return TensorDict(
            {"observation": self._observation.clone(), "done": off, "terminated": off.clone(), "truncated": off.clone()},
            batch_size=self.batch_size,
            device=self.device,
        )

    @torch.inference_mode()
    def begin_episodes(self, rows: Tensor) -> None:
        """Start new episodes in the marked worlds (N,)."""
        self._fresh.copy_(rows)
        for target, drawn in zip((self.clip, self.frame), self._draw(), strict=True):
            target.copy_(torch.where(rows, drawn, target))
        self.physics.reset(self._fresh, *self._place())
        self._look()

    def _place_work(self) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (N, Q), velocities (N, V) and activations (N, M) that the fresh episodes start from."""
        rows = self._fresh
        self.steps.masked_fill_(rows, 0)
        index = self.bank.row(self.clip, self.frame)
        qpos, qvel = rows_of(self.bank.frames.qpos, index), rows_of(self.bank.frames.qvel, index)
        if self.body_tensors.free_root:
            start = torch.cat([qpos[:, :2], torch.zeros_like(qpos[:, :1])], dim=1)
            self.origin.copy_(torch.where(rows[:, None], start, self.origin))
            qpos[:, :2].zero_()
        act = self.bank.activations(self.clip, self.frame) if self.task.reset_activations == "reference" else None
        act = torch.zeros_like(self._excitation) if act is None else act
        self._action.masked_fill_(rows[:, None], 0.0)
        self._excitation.copy_(torch.where(rows[:, None], act, self._excitation))
        return qpos, qvel, act

    def _look_work(self) -> None:
        """What is seen of fresh episodes."""
        context = self.context()
        self._observe(context, self._fresh)
        if self.balance is not None:
            self.balance_now.copy_(torch.where(self._fresh[:, None], self.balance(context), self.balance_now))

    def _draw(self) -> tuple[Tensor, Tensor]:
        if self._assigned is not None:
            assigned, self._assigned = self._assigned, None
            return assigned
        clip = self.sampler.draw(self.batch_size[0], self._generator)
        frame = draw_frames(clip, self.bank.lengths, self.task.min_episode_steps + 1, self._generator)
        return clip, frame

    def _set_seed(self, seed: int | None) -> None:
        self._generator.manual_seed(0 if seed is None else seed)

    def dump_failures(self) -> None:
        """Write what the flight recorder holds of worlds that failed; call once an iteration."""
        path = None if self.recorder is None else self.recorder.dump()
        if path is not None:
            log.warning("a simulation failed and its world was reset; the last steps are in %s", path)

    # -- checkpoint ---------------------------------------------------------------------------------------------------
    def _tensors(self) -> dict[str, Tensor]:
        return {
            "clip": self.clip, "frame": self.frame, "steps": self.steps, "origin": self.origin,
            "action": self._action, "excitation": self._excitation, "observation": self._observation,
            "returns": self.statistics.returns, "threshold_scale": self.threshold_scale,
        }

    def simulation_state(self) -> dict[str, dict[str, Tensor]]:
        """Everything that continuing the running episodes needs: worlds, counters, generator, sampler, weights."""
        return {
            "physics": self.physics.state_dict(),
            "episodes": {name: tensor.clone() for name, tensor in self._tensors().items()},
            "sampler": self.sampler.state_dict(),
            "reward_weights": {name: weight.clone() for name, weight in self.reward_weights.items()},
            "generator": {"state": self._generator.get_state()},
        }

    def load_simulation_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Continue from ``simulation_state``: the next full reset keeps the running episodes."""
        self.load_shared_state(state)
        self.physics.load_state_dict(state["physics"])
        for name, tensor in self._tensors().items():
            tensor.copy_(state["episodes"][name])
        self._generator.set_state(state["generator"]["state"])
        if self.balance is not None:
            self.balance_now.copy_(self.balance(self.context()))
        self._restored = True

    def load_shared_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take over only what does not belong to a world: sampler, reward weights and termination threshold."""
        self.sampler.load_state_dict(state["sampler"])
        for name, weight in self.reward_weights.items():
            weight.copy_(state["reward_weights"][name])
        self.threshold_scale.copy_(state["episodes"]["threshold_scale"])
