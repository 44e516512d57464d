"""Loading of recipes: base chain, profile, compatibility layer, command-line overrides."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from mm_torch.config.plain_yaml import LARGEST, YamlError, check_yaml
from mm_torch.config.schema import Recipe

_PLACES = [Path(__file__).resolve().parents[n] / "recipes" for n in (1, 2)]  # of an installation, of a checkout
RECIPES = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
_LAYERS = ("profiles", "compats")
_DEEPEST = 20  # sections that a key may go through

CHOICES: dict[str, tuple[str, ...]] = {
    "profile": ("auto", "cuda", "cpu"),
    "compat": ("corrected", "upstream"),
    "sim": ("auto", "warp", "native"),
    "task.action.space": ("muscle", "joint"),
    "task.action.base": ("constant", "reference"),
    "task.reset_activations": ("reference", "zero"),
    "net.kind": ("plain", "residual", "moe"),
    "ppo.optimiser.kind": ("adamw", "muon"),
    "ppo.optimiser.schedule": ("constant", "linear", "warmup_cosine"),
    "ppo.optimiser.ns_dtype": ("float32", "bfloat16"),
    "ppo.matmul": ("highest", "high"),
}
# lowest and highest value allowed
RANGES: dict[str, tuple[float, float]] = {
    "num_envs": (1, 1_000_000),
    "threads": (0, 1024),
    "total_steps": (1, 1e13),
    "max_minutes": (0, 1e7),
    "checkpoint_minutes": (0, 1e7),
    "task.action.hold_steps": (1, 100),
    "task.action.stiffness": (0, 1000),
    "task.action.damping": (0, 1000),
    "task.horizon_steps": (1, 1_000_000),
    "task.min_episode_steps": (0, 1_000_000),
    "net.init_std": (1e-6, 100),
    "ppo.rollout_steps": (1, 100_000),
    "ppo.minibatches": (1, 1_000_000),
    "ppo.epochs": (1, 1000),
    "ppo.gamma": (0, 1),
    "ppo.lam": (0, 1),
    "ppo.clip": (1e-6, 10),
    "ppo.reset_std": (1e-6, 100),
    "ppo.max_grad_norm": (1e-9, 1e9),
    "ppo.max_skipped_steps": (1, 1_000_000),
    "ppo.value_warmup": (0, 1_000_000),
    "distillation.labels": (0, 100_000_000),
    "evolution.steps": (0, 1e12),
    "evolution.sigma": (1e-6, 100),
    "evolution.lr": (0, 100),
    "evolution.last_lr": (0, 100),
    "evolution.episode_steps": (1, 1_000_000),
    "evolution.first_frame_share": (0, 1),
    "distillation.led_labels": (0, 100_000_000),
    "distillation.led_share": (0, 1),
    "distillation.noise": (0, 10),
    "distillation.round_steps": (1, 100_000),
    "distillation.updates": (1, 1_000_000),
    "distillation.last_updates": (1, 10_000_000),
    "distillation.batch": (1, 1_000_000),
    "distillation.lr": (0, 1),
    "ppo.max_kl": (1e-9, 1e30),
    "ppo.max_kl_iterations": (0, 1_000_000),
    "ppo.optimiser.lr": (0, 10),
    "ppo.optimiser.min_ratio": (0, 1),
    "ppo.optimiser.warmup": (0, 1),
    "sampling.floor": (0, 1),
    "sampling.ema": (0, 1),
    "curriculum.termination_min": (0, 1),
    "curriculum.reward_max": (1, 1e6),
}


class RecipeError(ValueError):
    """A recipe or an override cannot be used; the message names the key, the value and the remedy."""


def recipe_names() -> list[str]:
    """Names of the recipes that come with the project; those whose name ends in ``base`` only serve others."""
    return sorted(p.stem for p in RECIPES.glob("*.yaml") if not p.stem.endswith("base"))


@contextmanager
def _foreseen() -> Iterator[None]:
    """Errors of OmegaConf as a RecipeError."""
    try:
        yield
    except MissingMandatoryValue as error:
        raise RecipeError(f"{error.full_key}: the recipe sets no value; give {error.full_key}=VALUE") from None
    except ConfigKeyError as error:
        reason = _first_line(error)
        raise RecipeError(f"unknown key {error.full_key}: {reason}; see mm_torch/config/schema.py") from None
    except OmegaConfBaseException as error:
        where = error.full_key or "a section takes key.sub=value, see mm_torch/config/schema.py"
        raise RecipeError(f"{where}: {_first_line(error)}") from None


@_foreseen()
def load_recipe(
    arguments: Sequence[str], *, cuda_available: bool, learned: DictConfig | None = None
) -> Recipe:
    """Resolve ``recipe=NAME key.sub=value ...``.

    Args:
        arguments: command-line words; ``recipe`` names a file of ``recipes/`` or a path to a YAML file.
        cuda_available: decides what ``profile=auto`` takes.
        learned: sections that a checkpoint's weights depend on, for fine-tuning.

    Returns:
        The resolved recipe; later layers win: base chain, profile, compatibility layer, checkpoint, command line.

    Raises:
        RecipeError: unknown recipe or key, wrong type, value out of range.
    """
    overrides = parse_overrides(arguments)
    name = overrides.get("recipe")
    if name is None:
        raise RecipeError(f"recipe=NAME is missing; choose one of {', '.join(recipe_names())}")
    layers = _base_chain(str(name))
    for layer in layers:
        _check_layer(layer)
    plain = [OmegaConf.masked_copy(layer, [k for k in layer if k not in (*_LAYERS, "base")]) for layer in layers]
    merged = _merge([OmegaConf.structured(Recipe), *plain, overrides])
    chosen = {"profiles": _profile(str(merged.profile), cuda_available), "compats": str(merged.compat)}
    extra = [layer[kind][chosen[kind]] for kind in _LAYERS for layer in layers
             if kind in layer and chosen[kind] in layer[kind]]
    fixed = OmegaConf.create({"recipe": Path(str(name)).stem, "profile": chosen["profiles"]})
    if learned is not None:
        extra.append(learned)
    return to_recipe(_merge([OmegaConf.structured(Recipe), *plain, *extra, overrides, fixed]))


@_foreseen()
def to_recipe(config: DictConfig | dict[str, Any]) -> Recipe:
    """Check a merged configuration and freeze it.

    Raises:
        RecipeError: a mandatory value is missing, a choice is unknown or a number out of range.
    """
    if not isinstance(config, DictConfig) or OmegaConf.get_type(config) is not Recipe:
        config = _merge([OmegaConf.structured(Recipe), OmegaConf.create(config)])
    recipe: Recipe = OmegaConf.to_object(config)  # type: ignore[assignment]
    _check_lists(OmegaConf.to_container(config), "")
    _validate(config)
    kept = {name: term for name, term in recipe.task.reward.items() if term is not None}
    return replace(recipe, task=replace(recipe.task, reward=kept))


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML; loading it gives the same recipe."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))


def to_plain(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain containers."""
    return OmegaConf.to_container(OmegaConf.structured(recipe))  # type: ignore[return-value]


def parse_overrides(arguments: Iterable[str]) -> DictConfig:
    """``key.sub=value`` words as a configuration.

    Raises:
        RecipeError: a word is no ``key=value``.
    """
    words = list(arguments)
    for word in words:
        if "=" not in word or word.startswith(("=", "-")):
            raise RecipeError(f"{word!r} is no key=value; write for example num_envs=64 (without dashes)")
        key, _, value = word.partition("=")
        if key.count(".") + key.count("[") > _DEEPEST:
            raise RecipeError(f"{key[:40]!r}...: no setting lies so deep")
        try:
            check_yaml(value, f"{key}=")
        except YamlError as error:
            raise RecipeError(str(error)) from None
    try:
        return OmegaConf.from_dotlist(words)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"cannot read the overrides: {_first_line(error)}") from None


def _base_chain(name: str, above: tuple[Path, ...] = ()) -> list[DictConfig]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not _is_file(path):
        near = get_close_matches(name, recipe_names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(f"unknown recipe {name!r}: choose one of {', '.join(recipe_names())}{hint}")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
        check_yaml(text, str(path))
        layer = OmegaConf.load(io.StringIO(text))
    except YamlError as error:
        raise RecipeError(str(error)) from None
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise RecipeError(f"{path}: not readable as YAML ({' '.join(str(error).split())}); correct it there") from None
    if not isinstance(layer, DictConfig):
        raise RecipeError(f"{path}: a recipe is a YAML mapping; this is none")
    if path in above:
        raise RecipeError(f"{path}: its chain of base: leads back to itself; take one of the bases out")
    return [*(_base_chain(str(layer.base), (*above, path)) if "base" in layer else []), layer]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _check_layer(layer: DictConfig) -> None:
    for kind in _LAYERS:
        variants = layer.get(kind, {})
        if not isinstance(variants, (dict, DictConfig)) or not all(isinstance(v, DictConfig) for v in variants.values()):
            names = ", ".join(CHOICES[kind.removesuffix("s")])
            raise RecipeError(f"{kind}: {str(variants)[:40]!r}; it takes a section for each of {names}")


def _profile(name: str, cuda_available: bool) -> str:
    return name if name != "auto" else "cuda" if cuda_available else "cpu"


def _merge(layers: list[DictConfig]) -> DictConfig:
    try:
        return OmegaConf.merge(*layers)  # type: ignore[return-value]
    except OmegaConfBaseException:
        raise
    except (TypeError, ValueError) as error:  # what OmegaConf says of a list where a section belongs
        raise RecipeError(f"a list or a value stands where a section belongs, or the reverse ({_first_line(error)}); see "
                          "mm_torch/config/schema.py") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].strip()


def _check_lists(value: Any, key: str) -> None:
    """Refuse sections and lists inside lists, which OmegaConf lets through whatever the list is of."""
    for name, inner in value.items() if isinstance(value, dict) else ():
        _check_lists(inner, f"{key}.{name}" if key else str(name))
    for inner in value if isinstance(value, (list, tuple)) else ():
        if isinstance(inner, (dict, list, tuple)):
            raise RecipeError(f"{key}: {str(inner)[:40]} stands in a list of plain values; take it out")


def _validate(config: DictConfig) -> None:
    for key, choices in CHOICES.items():
        value = OmegaConf.select(config, key)
        if value not in choices:
            near = get_close_matches(str(value), choices, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise RecipeError(f"{key}={value}: choose one of {', '.join(choices)}{hint}")
    for key, (low, high) in RANGES.items():
        value = OmegaConf.select(config, key)
        if value is not None and not low <= value <= high:
            raise RecipeError(f"{key}={value}: must lie between {low:g} and {high:g}")
    batch, minibatches = config.num_envs * config.ppo.rollout_steps, config.ppo.minibatches
    if batch % minibatches:
        fitting = next(n for n in range(minibatches, 0, -1) if batch % n == 0)
        raise RecipeError(
            f"num_envs={config.num_envs} times ppo.rollout_steps={config.ppo.rollout_steps} = {batch} samples do not "
            f"divide into ppo.minibatches={minibatches}; for example ppo.minibatches={fitting} does"
        )
    action = config.task.action
    if action.space != "joint" and (action.stiffness or action.damping):
        raise RecipeError(
            f"task.action.stiffness={action.stiffness:g}, damping={action.damping:g}: joint feedback needs "
            "task.action.space=joint; set that, or both gains to 0"
        )
    if action.reflexes and action.space != "joint":
        raise RecipeError(
            f"task.action.reflexes=true with task.action.space={action.space}: reflexes act on joints; set "
            "task.action.space=joint, or task.action.reflexes=false"
        )
    if config.evolution.steps and (not action.reflexes or config.num_envs % 2):
        raise RecipeError(
            f"evolution.steps={config.evolution.steps} with task.action.reflexes={str(action.reflexes).lower()} and "
            f"num_envs={config.num_envs}: it searches the gains of the reflexes with pairs of worlds; set "
            "task.action.reflexes=true and an even number, or evolution.steps=0"
        )
    if config.distillation.labels and action.space != "muscle":
        raise RecipeError(
            f"distillation.labels={config.distillation.labels} with task.action.space={action.space}: the controller says "
            "what each muscle is to do; set task.action.space=muscle, or distillation.labels=0"
        )
    hidden, mixtures = config.net.hidden, config.net.moe.layers
    if not hidden or min(hidden) < 1:
        raise RecipeError(f"net.hidden={list(hidden)}: give at least one layer width, for example net.hidden=[256,256]")
    if config.net.kind == "moe" and config.net.symmetric:
        raise RecipeError("net.symmetric=true with net.kind=moe: choose one of the two")
    if config.net.kind == "moe" and not all(0 <= layer < len(hidden) for layer in mixtures):
        raise RecipeError(
            f"net.moe.layers={list(mixtures)}: net.hidden has layers 0 to {len(hidden) - 1}; name some of them"
        )
    if config.resume is not None and config.init_from is not None:
        raise RecipeError("resume= continues a run, init_from= starts a new one from its weights: give one of them")
