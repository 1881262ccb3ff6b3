"""The share of a token's mass near its CTC spike."""

from __future__ import annotations

import pytest
import torch

from espnet_hkd.nets.own_mass import own_mass

# CTC reads 5 at frame 4 and 6 at frame 12; the end of sentence lies at frame 19.
BEST = torch.zeros(1, 20, dtype=torch.long)
BEST[0, [4, 5]] = 5
BEST[0, 12] = 6
LENGTHS, LABELS = torch.tensor([20]), torch.tensor([2])


def masses(weights, best=BEST, lengths=LENGTHS, labels=LABELS, reach=3):
    return float(own_mass(weights, best, lengths, labels, reach=reach))


def test_bumps_at_the_spikes_have_all_of_it():
    weights = torch.zeros(1, 20)
    weights[0, [4, 12, 19]] = 0.7
    assert masses(weights) == pytest.approx(1.0)


def test_bumps_elsewhere_have_none_of_it():
    weights = torch.zeros(1, 20)
    weights[0, [0, 8, 19]] = 0.7
    assert masses(weights) == pytest.approx(0.0)


def test_flat_weights_have_what_lies_within_reach():
    # 3 tokens in 20 frames: each frame 0.15. Frames 1 to 7 meet token 1 (frames 0 to
    # 6 2/3), frames 9 to 15 token 2 (6 2/3 to 13 1/3).
    first, second = (20 / 3 - 1) * 0.15, (40 / 3 - 9) * 0.15
    assert masses(torch.full((1, 20), 0.2)) == pytest.approx((first + second) / 2)


def test_utterances_that_ctc_reads_otherwise_do_not_count():
    weights = torch.zeros(2, 20)
    weights[:, [4, 12, 19]] = 0.7
    best = BEST.repeat(2, 1)
    best[1, 9] = 7
    both = masses(weights, best, LENGTHS.repeat(2), LABELS.repeat(2))
    assert both == pytest.approx(1.0)
    assert masses(weights[1:], best[1:]) == 0.0


def test_padding_may_hold_anything():
    weights, best = torch.zeros(1, 30), torch.full((1, 30), 9)
    weights[0, [4, 12, 19]] = 0.7
    best[:, :20] = BEST
    assert masses(weights, best) == pytest.approx(1.0)


def test_silence_is_zero_and_finite():
    silent = torch.zeros_like(BEST)
    assert masses(torch.zeros(1, 20), silent, labels=torch.tensor([0])) == 0.0
    assert masses(torch.zeros(1, 20)) == 0.0
