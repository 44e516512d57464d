"""The recipe: every setting of a run, typed, with its meaning beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass(frozen=True)
class BodyConfig:
    """Which embodiment."""

    name: str = MISSING  # a body of sim_models (python -m mm_torch.bodies lists them)
    fingers: bool = False  # let the fingers move
    fixes: list[str] = field(default_factory=list)  # repairs of the published model (docs/model_validation.md)


@dataclass(frozen=True)
class RewardConfig:
    """One reward term: ``weight * exp(-scale * squared error)``, or ``-weight * cost`` for penalties."""

    weight: float = MISSING
    scale: float = 1.0


@dataclass(frozen=True)
class ActionConfig:
    """Action map: ``excitation = clip(base + scale * spread(action + feedback), low, 1)``."""

    space: str = "muscle"  # muscle: one action a muscle; joint: one an independent joint, spread over its muscles
    hold_steps: int = 1  # control steps for which the policy's action is held
    stiffness: float = 0.0  # joint feedback in every control step, action per rad off the reference (space=joint)
    damping: float = 0.0  # the same, action per rad/s
    reflexes: bool = False  # legs react to errors of the root, too, with gains of their own (space=joint, a body that walks)
    base: str = "constant"  # constant: offset below; reference: activations of the reference at that time
    offset: float = 0.5  # base of the constant map
    scale: float = 0.5
    low: float = 0.0  # upstream lets -1 through, which MuJoCo treats as 0


@dataclass(frozen=True)
class TaskConfig:
    """Term tables and episode rules."""

    observation: tuple[str, ...] = MISSING  # term names, in the order of the observation vector
    lookahead_steps: tuple[int, ...] = (1, 5, 15)  # reference frames ahead of the current one, in control steps
    reward: dict[str, RewardConfig | None] = field(default_factory=dict)  # null takes a term of the base out
    penalty: dict[str, float] = field(default_factory=dict)  # cost term to weight
    termination: dict[str, float | None] = field(default_factory=dict)  # deviation term to threshold (m or rad)
    action: ActionConfig = field(default_factory=ActionConfig)
    horizon_steps: int = 1000  # an episode is cut here
    min_episode_steps: int = 10  # an episode starts at least so many steps before the clip's end
    reset_activations: str = "reference"  # reference: activations that fit the pose; zero: as upstream


@dataclass(frozen=True)
class SamplingConfig:
    """Which clips episodes start from."""

    adaptive: bool = False  # prefer clips that end early
    alpha: float = 1.0
    ema: float = 0.2
    floor: float = 0.1  # share that stays uniform


@dataclass(frozen=True)
class CurriculumConfig:
    """Schedules driven by the early-termination rate; off by default."""

    termination: bool = False  # tighten or loosen every termination threshold together
    termination_min: float = 0.1  # smallest threshold as a share of the configured one
    reward: bool = False  # raise the weights of the reward terms named below
    reward_terms: tuple[str, ...] = ()
    reward_max: float = 4.0  # largest weight as a multiple of the configured one


@dataclass(frozen=True)
class MoeConfig:
    """Soft mixture of experts, used by ``net.kind=moe``."""

    layers: tuple[int, ...] = (3,)  # hidden layers that are mixtures
    experts: int = 16
    temperature: float = 0.5
    loss_weight: float = 0.01


@dataclass(frozen=True)
class NetConfig:
    """Actor and critic: two separate towers."""

    kind: str = "plain"  # plain, residual (gated, widths in pairs) or moe
    hidden: tuple[int, ...] = (256, 256, 256)
    init_std: float = 0.3
    learnable_std: bool = True
    moe: MoeConfig = field(default_factory=MoeConfig)
    symmetric: bool = False  # mirrored observations have mirrored actions and the same value; not with moe
    observation_clip: float | None = 10.0  # bound of normalised observations, in standard deviations


@dataclass(frozen=True)
class OptimiserConfig:
    """Optimiser and learning rate."""

    kind: str = "adamw"  # adamw, or muon (2-D weights by Muon, the rest by AdamW)
    lr: float = 3e-4
    weight_decay: float = 0.0
    schedule: str = "linear"  # constant, linear (to 0 at the end of the run) or warmup_cosine
    min_ratio: float = 0.0  # last rate over lr, warmup_cosine only
    warmup: float = 0.1  # share of the run, warmup_cosine only
    ns_dtype: str = "float32"  # of Muon's Newton-Schulz products; bfloat16 is many times faster on a GPU


@dataclass(frozen=True)
class PpoConfig:
    """Proximal policy optimisation; its steps are the policy's, of ``task.action.hold_steps`` control steps each."""

    rollout_steps: int = 32
    minibatches: int = 8
    epochs: int = 1
    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.5
    value_warmup: int = 0  # iterations at the start in which only the critic learns
    entropy_weight: float = 0.0
    max_grad_norm: float = 1.0
    max_skipped_steps: int = 50  # optimiser steps in a row with gradients that are not finite, after which training stops
    max_kl: float | None = 1.0  # nat; a warning is given when a minibatch's KL divergence passes it; none: no alarm
    max_kl_iterations: int = 0  # iterations in a row with such a minibatch, after which training stops; 0: never
    normalise_reward: bool = True
    upstream: bool = False  # as the original: statistics move in each forward pass, truncations bootstrap from resets
    matmul: str = "highest"  # the networks' products on a GPU: highest (IEEE single precision) or high (TF32)
    reset_std: float | None = None  # set the policy's std to this at the start (fine-tuning)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)


@dataclass(frozen=True)
class DistillationConfig:
    """Before PPO: the actor learns from computed muscle control (docs/guided.md); one process, task.action.space=muscle."""

    labels: int = 0  # states in which the controller says what it would do; 0: no distillation
    led_labels: int = 8192  # of these, the first come from episodes that the controller acts in
    led_share: float = 0.3  # share of the worlds in which it acts afterwards; the policy in the others
    noise: float = 0.2  # standard deviation of the noise on actions, in the policy's unit
    round_steps: int = 16  # actions of every world between fits
    updates: int = 60  # optimiser steps of a fit
    last_updates: int = 1000  # of the last one, on all labels
    batch: int = 512  # states of an optimiser step
    lr: float = 1e-3  # falls to a tenth


@dataclass(frozen=True)
class EvolutionConfig:
    """Before PPO: search for the gains of task.action.reflexes (docs/reflexes.md); one process, an even number of worlds."""

    steps: int = 0  # control steps of the search, besides total_steps; 0: none
    sigma: float = 0.2  # standard deviation of the candidates' gains
    lr: float = 0.1
    last_lr: float = 0.03
    episode_steps: int = 250  # control steps of an episode at most
    first_frame_share: float = 0.5  # share of the episodes that start with the first frame of a clip


@dataclass(frozen=True)
class EvaluationConfig:
    """Thresholds of the evaluation, after the paper, and evaluation during training."""

    relative_site_deviation: float | None = 0.3  # m
    root_position: float | None = 0.5  # m
    absolute_site_deviation: float | None = None  # m
    every_steps: int = 0  # control steps of training between evaluations; 0: none during training
    motions: str | None = None  # directory with the clips of the validation split; none: those trained on
    video: bool = False  # film each evaluation that is the best so far


@dataclass(frozen=True)
class Recipe:
    """All settings of a run."""

    recipe: str = MISSING
    body: BodyConfig = field(default_factory=BodyConfig)
    profile: str = "auto"  # auto, cuda or cpu
    compat: str = "corrected"  # corrected, or upstream (the released JAX code's numbers)
    sim: str = "auto"  # auto, warp or native
    num_envs: int = MISSING  # worlds of each process
    threads: int = 0  # CPU threads in all; 0: all cores
    seed: int = 0
    motions: str | None = None  # directory with clips; none: the built-in library
    run_dir: str | None = None  # none: runs/<recipe>-<time>
    total_steps: int = MISSING  # control steps
    max_minutes: float | None = None
    checkpoint_minutes: float = 5.0  # time between writes of last.ckpt
    resume: str | None = None  # a run directory or checkpoint to continue
    init_from: str | None = None  # a checkpoint whose weights and normaliser to start from
    task: TaskConfig = field(default_factory=TaskConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    net: NetConfig = field(default_factory=NetConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)
    ppo: PpoConfig = field(default_factory=PpoConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
