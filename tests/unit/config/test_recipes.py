"""Recipes: every one loads in every profile, and every mistake is one line that names the key and the remedy."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mm_torch import build
from mm_torch.config.load import CHOICES, RANGES, RECIPES, RecipeError, load_recipe, recipe_names, to_recipe, to_yaml
from mm_torch.config.schema import Recipe
from sim_models.registry import BODIES


def load(*words: str, cuda: bool = False) -> Recipe:
    return load_recipe(words, cuda_available=cuda)


def has_upstream(name: str) -> bool:
    """Whether a recipe or one of its bases changes its terms for compat=upstream."""
    layer = OmegaConf.load(RECIPES / f"{name}.yaml")
    own = bool(OmegaConf.select(layer, "compats.upstream.task"))
    return own or ("base" in layer and has_upstream(str(layer.base)))


# -- what comes with the project --------------------------------------------------------------------------------------
@pytest.mark.parametrize("profile", ["cpu", "cuda"])
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads(name: str, profile: str) -> None:
    for cuda in (False, True):
        recipe = load(f"recipe={name}", f"profile={profile}", cuda=cuda)
        assert recipe.recipe == name and recipe.profile == profile and recipe.compat == "corrected"
        assert recipe.body.name in BODIES
        assert recipe.num_envs * recipe.ppo.rollout_steps % recipe.ppo.minibatches == 0
        assert sum(term.weight for term in recipe.task.reward.values() if term) > 0
        build.check_terms(recipe)


@pytest.mark.parametrize("profile", ["cpu", "cuda"])
@pytest.mark.parametrize("name", [n for n in recipe_names() if has_upstream(n)])
def test_every_upstream_layer_loads(name: str, profile: str) -> None:
    corrected = load(f"recipe={name}", f"profile={profile}")
    recipe = load(f"recipe={name}", f"profile={profile}", "compat=upstream")
    assert recipe.ppo.upstream and not corrected.ppo.upstream
    assert recipe.compat == "upstream" and recipe.task != corrected.task
    assert any(term.startswith("upstream_") for term in recipe.task.observation)
    assert recipe.task.reset_activations == "zero"
    build.check_terms(recipe)


def test_every_file_of_the_folder_is_a_recipe_or_a_base() -> None:
    assert {p.suffix for p in RECIPES.iterdir() if p.is_file()} == {".yaml"}
    assert "toy_arm" in recipe_names() and "base" not in recipe_names()


def test_checked_keys_exist() -> None:
    config = OmegaConf.to_container(OmegaConf.structured(Recipe))
    for key in (*CHOICES, *RANGES):
        section = config
        for part in key.split("."):
            assert part in section, key
            section = section[part]


# -- layers -----------------------------------------------------------------------------------------------------------
def write(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.yaml").write_text(text)
    return f"recipe={folder / name}.yaml"


def test_auto_takes_what_is_there() -> None:
    assert load("recipe=toy_arm", cuda=False).profile == "cpu"
    assert load("recipe=toy_arm", cuda=True).profile == "cuda"


def test_later_layers_win(tmp_path: Path) -> None:
    write(tmp_path, "below", "base: toy_arm\nnum_envs: 8\nseed: 3\n"
                             "profiles: {cpu: {num_envs: 16}, cuda: {num_envs: 32}}\n")
    word = write(tmp_path, "above", f"base: {tmp_path / 'below.yaml'}\nseed: 4\nnum_envs: 64\n"
                                    "compats: {upstream: {seed: 5}}\n")
    recipe = load(word, cuda=False)
    assert (recipe.num_envs, recipe.seed, recipe.recipe) == (16, 4, "above")
    assert load(word, cuda=True).num_envs == 32
    assert load(word, "compat=upstream").seed == 5
    assert load(word, "compat=upstream", "seed=6", "num_envs=128").seed == 6
    assert load(word, "num_envs=128").num_envs == 128


def test_null_takes_a_reward_term_out() -> None:
    recipe = load("recipe=toy_arm", "task.reward.joint_velocity=null")
    assert set(recipe.task.reward) == {"joint_position", "site_position"}


def test_sections_of_a_checkpoint_lie_below_the_command_line() -> None:
    learned = OmegaConf.create({"net": {"hidden": [8, 8], "init_std": 0.9}})
    recipe = load_recipe(["recipe=toy_arm", "net.init_std=0.7"], cuda_available=False, learned=learned)
    assert recipe.net.hidden == (8, 8) and recipe.net.init_std == 0.7


def test_yaml_round_trip(tmp_path: Path) -> None:
    recipe = load("recipe=bimanual_generalist", "compat=upstream", "task.lookahead_steps=[0,2]", "max_minutes=2.5")
    assert to_recipe(OmegaConf.create(to_yaml(recipe))) == recipe
    again = load(write(tmp_path, "stored", to_yaml(recipe)))
    assert again.task == recipe.task and again.ppo == recipe.ppo and again.net == recipe.net


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        load("recipe=toy_arm").num_envs = 3  # type: ignore[misc]


# -- mistakes ---------------------------------------------------------------------------------------------------------
MISTAKES = {
    "no recipe": (["num_envs=4"], ["recipe=NAME", "toy_arm"]),
    "unknown recipe": (["recipe=toy_amr"], ["'toy_amr'", "did you mean 'toy_arm'"]),
    "missing file": (["recipe=nowhere/mine.yaml"], ["nowhere/mine.yaml"]),
    "misspelt key": (["recipe=toy_arm", "num_env=4"], ["num_env", "schema.py"]),
    "misspelt nested key": (["recipe=toy_arm", "ppo.optimiser.rl=1"], ["ppo.optimiser.rl"]),
    "wrong type": (["recipe=toy_arm", "num_envs=many"], ["num_envs", "many"]),
    "wrong nested type": (["recipe=toy_arm", "ppo.gamma=high"], ["ppo.gamma", "high"]),
    "list for a number": (["recipe=toy_arm", "num_envs=[1,2]"], ["num_envs"]),
    "number for a section": (["recipe=toy_arm", "ppo=3"], ["PpoConfig", "key.sub=value"]),
    "too small": (["recipe=toy_arm", "num_envs=0"], ["num_envs=0", "between 1 and"]),
    "too large": (["recipe=toy_arm", "ppo.gamma=1.5"], ["ppo.gamma=1.5", "between 0 and 1"]),
    "minibatches": (["recipe=toy_arm", "num_envs=6", "ppo.rollout_steps=5", "ppo.minibatches=7"],
                    ["num_envs=6", "= 30 samples", "ppo.minibatches=7", "ppo.minibatches=6 does"]),
    "unknown profile": (["recipe=toy_arm", "profile=gpu"], ["profile=gpu", "auto, cuda, cpu"]),
    "unknown compat": (["recipe=toy_arm", "compat=upstraem"], ["compat=upstraem", "did you mean 'upstream'"]),
    "unknown choice": (["recipe=toy_arm", "ppo.optimiser.kind=adam"],
                       ["ppo.optimiser.kind=adam", "did you mean 'adamw'"]),
    "unknown backend": (["recipe=toy_arm", "sim=mjx"], ["sim=mjx", "auto, warp, native"]),
    "dashes": (["recipe=toy_arm", "--num_envs=4"], ["'--num_envs=4'", "without dashes"]),
    "no equals sign": (["recipe=toy_arm", "num_envs"], ["'num_envs'", "key=value"]),
    "both starts": (["recipe=toy_arm", "resume=a", "init_from=b"], ["resume=", "init_from=", "one of them"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_with_key_and_remedy(case: str) -> None:
    words, parts = MISTAKES[case]
    with pytest.raises(RecipeError) as error:
        load(*words)
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    for part in parts:
        assert part in message, message


def test_misspelt_key_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"(?i)did you mean:? 'num_envs'"):
        load("recipe=toy_arm", "num_env=4")
    with pytest.raises(RecipeError, match=r"(?i)did you mean:? '(ppo\.)?minibatches'"):
        load("recipe=toy_arm", "ppo.minibatch=4")


@pytest.mark.parametrize("words", [["recipe=base"], ["recipe=bimanual_base"]])
def test_a_base_alone_is_incomplete_and_says_what_is_missing(words: list[str]) -> None:
    with pytest.raises(RecipeError, match="no value") as error:
        load(*words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "num_envs: [unclosed\n"])
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError) as error:
        load(write(tmp_path, "odd", text))
    assert "odd.yaml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("task.observation=[joint_position,joint_velocty]", "joint_velocty"),
        ("task.penalty.energy=1", "energy"),
        ("task.termination.site=0.1", "site"),
        ("task.reward.joint_pos.weight=1", "joint_pos"),
        ("curriculum.reward_terms=[root_position]", "root_position"),
        ("task.observation=[]", "task.observation is empty"),
    ],
)
def test_unknown_terms_are_refused(word: str, part: str) -> None:
    with pytest.raises(RecipeError) as error:
        build.check_terms(load("recipe=toy_arm", word))
    assert part in str(error.value) and "\n" not in str(error.value)


def test_circular_bases_are_refused(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"base: {tmp_path / base}.yaml\n")
    with pytest.raises(RecipeError, match="leads back to itself"):
        load_recipe([f"recipe={tmp_path / 'a'}.yaml"], cuda_available=False)
