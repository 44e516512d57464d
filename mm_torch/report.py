"""What a run prints before it starts: recipe, body, motions and term tables."""

from __future__ import annotations

from pathlib import Path

from mm_torch.config.load import to_yaml
from mm_torch.config.schema import Recipe
from mm_torch.ppo.module import PpoModule
from mm_torch.task import observation, reward, termination
from mm_torch.task.env import MimicEnv
from sim_models.embodiment import Embodiment


def describe_body(body: Embodiment) -> str:
    """One paragraph of sizes."""
    m = body.model
    groups = ", ".join(f"{name} {len(ids)}" for name, ids in body.muscle_groups.items())
    return (
        f"{body.name}{' with fingers' if body.fingers else ''}: nq {m.nq}, nv {m.nv}, {m.nu} muscles ({groups}), "
        f"{len(body.site_names)} mimic sites, {len(body.couplings.dependent_qpos)} couplings, "
        f"{len(body.couplings.independent_dof)} independent dof, {m.body_mass.sum():.2f} kg, "
        f"{'free' if body.free_root else 'fixed'} root, control {1 / body.control_dt:.0f} Hz "
        f"({body.substeps} x {1000 * m.opt.timestep:g} ms)"
    )


def table(title: str, rows: list[tuple[str, ...]]) -> str:
    """Aligned columns under a title."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    lines = ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([title, *(lines or ["  (none)"])])


def _sentence(kernel: object) -> str:
    return (kernel.__doc__ or "").strip().splitlines()[0]


def term_tables(recipe: Recipe, env: MimicEnv) -> str:
    """Observation, reward, cost and termination terms with sizes, weights and thresholds."""
    task = recipe.task
    seen = [(s.name, str(s.end - s.start), _sentence(observation.TERMS[s.name])) for s in env.layout]
    rewards = [
        (name, f"weight {t.weight:g}", f"scale {t.scale:g}", _sentence(reward.TERMS[name]))
        for name, t in task.reward.items()
        if t is not None
    ]
    costs = [(name, f"weight {weight:g}", _sentence(reward.COSTS[name])) for name, weight in task.penalty.items()]
    ends = [
        (name, "off" if limit is None else f"> {limit:g}", _sentence(termination.TERMS[name]))
        for name, limit in task.termination.items()
    ]
    most = sum(t.weight for t in task.reward.values() if t is not None)
    return "\n".join([
        table(f"Observation ({env.layout[-1].end} entries)", seen),
        table(f"Reward (at most {most:g} a step)", rewards),
        table("Costs", costs),
        table("Early termination", ends),
    ])


def print_run(recipe: Recipe, run_dir: Path, env: MimicEnv, module: PpoModule, backend: str) -> None:
    """Print everything that defines a run."""
    bank = env.bank
    source = (
        f"the built-in motion library ({bank.num_clips} clips). Give motions=DIR to train on your own; "
        "tools/retarget.py makes clips from motion capture"
        if recipe.motions is None
        else f"{bank.num_clips} clips of {recipe.motions}"
    )
    minutes = bank.lengths.sum().item() / bank.fps / 60
    parameters = sum(p.numel() for p in module.agent.parameters())
    print(f"# resolved recipe\n{to_yaml(recipe)}")
    print(f"Body      {describe_body(env.physics.body)}")
    print(f"Motions   {source}; {minutes:.1f} min, {bank.memory_bytes / 1e6:.1f} MB"
          f"{'' if bank.act is not None else '; without activations, so episodes start with relaxed muscles'}")
    print(f"Profile   {recipe.profile}: {backend} physics on {env.device}, {recipe.num_envs} worlds x "
          f"{recipe.ppo.rollout_steps} actions of {recipe.task.action.hold_steps} control steps, "
          f"{recipe.ppo.minibatches} minibatches, {parameters:,} parameters")
    for name, amount, unit in (("search for reflexes", recipe.evolution.steps, "control steps"),
                               ("distillation", recipe.distillation.labels, "labels")):
        if amount and not module.iteration:
            print(f"Before    PPO: {name}, {amount:,} {unit}")
    print(f"Run       {run_dir} (from iteration {module.iteration} of {module.total_iterations})")
    print(term_tables(recipe, env), flush=True)
