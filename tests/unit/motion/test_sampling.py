from __future__ import annotations

import pytest
import torch

from mm_torch.motion.sampling import ClipSampler, draw_frames, episode_counts


def test_default_is_uniform_whatever_was_counted() -> None:
    sampler = ClipSampler(4)
    sampler.update(torch.tensor([9.0, 9.0, 0.0, 0.0]), torch.tensor([9.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(sampler.weights(), torch.full((4,), 0.25))


def test_draws_follow_the_weights() -> None:
    sampler = ClipSampler(3, floor=0.1)
    for _ in range(50):
        sampler.update(torch.tensor([10.0, 10.0, 10.0]), torch.tensor([8.0, 2.0, 0.0]))
    weights = sampler.weights()
    assert weights.sum().item() == pytest.approx(1.0) and weights.min().item() >= 0.1 / 3
    drawn = sampler.draw(40_000, torch.Generator().manual_seed(0))
    assert drawn.dtype is torch.int64
    frequency = torch.bincount(drawn, minlength=3) / drawn.numel()
    torch.testing.assert_close(frequency, weights, rtol=0.0, atol=0.01)


def test_same_seed_same_clips_and_another_seed_others() -> None:
    sampler = ClipSampler(100)
    first, again, other = (sampler.draw(64, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_frames_cover_exactly_what_leaves_enough_behind() -> None:
    lengths = torch.tensor([5, 2, 1])
    clips = torch.arange(3).repeat(2000)
    frames = draw_frames(clips, lengths, 2, torch.Generator().manual_seed(0))
    assert [sorted(set(frames[clips == c].tolist())) for c in range(3)] == [[0, 1, 2, 3], [0], [0]]
    whole = draw_frames(clips, lengths, 1, torch.Generator().manual_seed(0))
    assert [whole[clips == c].max().item() for c in range(3)] == [4, 1, 0]


def test_counts_attribute_each_episode_to_its_clip() -> None:
    clips = torch.tensor([[0, 2], [2, 2]])
    done = torch.tensor([[True, True], [False, True]])
    failed = torch.tensor([[False, True], [True, False]])
    done_counts, early_counts = episode_counts(clips, done, failed, 3)
    assert done_counts.tolist() == [1.0, 0.0, 2.0] and early_counts.tolist() == [0.0, 0.0, 1.0]


def test_state_round_trip_and_refusals() -> None:
    source, target = ClipSampler(3, floor=0.1), ClipSampler(3, floor=0.1)
    source.update(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 0.0]))
    target.load_state_dict(source.state_dict())
    assert torch.equal(source.weights(), target.weights())
    with pytest.raises(ValueError, match="covers 3 clips, this bank holds 4"):
        ClipSampler(4).load_state_dict(source.state_dict())
    with pytest.raises(ValueError, match=r"done_counts has shape \(2,\)"):
        source.update(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="floor is 2"):
        ClipSampler(3, floor=2.0)
