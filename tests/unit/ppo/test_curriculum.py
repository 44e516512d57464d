from __future__ import annotations

import pytest
import torch

from mm_torch.ppo.curriculum import RewardCurriculum, TerminationCurriculum

NONE, ALL, TEN = torch.tensor(0.0), torch.tensor(10.0), torch.tensor(10.0)


def reward_curriculum() -> RewardCurriculum:
    return RewardCurriculum({"qvel": 0.1, "root": 0.0}, {"qvel": 0.4, "root": 0.4})


def test_threshold_tightens_to_its_minimum_and_never_beyond_its_first_value() -> None:
    curriculum = TerminationCurriculum(initial=0.5, minimum=0.3)
    held = curriculum.threshold
    for _ in range(200):
        curriculum.update(NONE, TEN)
    assert held is curriculum.threshold and held.item() == pytest.approx(0.3)
    for _ in range(200):
        curriculum.update(ALL, TEN)
    assert held.item() == pytest.approx(0.5)


@pytest.mark.parametrize("curriculum", [TerminationCurriculum(), reward_curriculum()])
def test_a_rollout_without_a_finished_episode_changes_nothing(curriculum: TerminationCurriculum) -> None:
    for _ in range(30):
        curriculum.update(NONE, TEN)
    before = curriculum.state_dict()
    curriculum.update(NONE, NONE)
    assert all(torch.equal(before[name], value) for name, value in curriculum.state_dict().items())


def test_weights_grow_to_their_maximum_and_a_view_follows() -> None:
    curriculum = reward_curriculum()
    view = curriculum.weight("qvel")
    for _ in range(600):
        curriculum.update(NONE, TEN)
    assert view.item() == pytest.approx(0.4) and curriculum.weight("root").item() == 0.0


@pytest.mark.parametrize("make", [TerminationCurriculum, reward_curriculum])
def test_restored_state_continues_as_before(make: type[TerminationCurriculum]) -> None:
    rates = torch.rand(40, generator=torch.Generator().manual_seed(0)) * 3.0
    whole, restored = make(), make()
    for rate in rates[:23]:
        whole.update(rate, TEN)
    restored.load_state_dict(whole.state_dict())
    for rate in rates[23:]:
        whole.update(rate, TEN), restored.update(rate, TEN)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name])
    with pytest.raises(ValueError, match="state has keys"):
        whole.load_state_dict({})


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"minimum 0\.9"):
        TerminationCurriculum(initial=0.5, minimum=0.9)
    with pytest.raises(ValueError, match="name the same terms"):
        RewardCurriculum({"qvel": 0.1}, {"root": 0.1})
