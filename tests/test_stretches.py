"""Whole tokens in stretches of frames."""

from __future__ import annotations

import pytest
import torch

from espnet_hkd.cif import integrate_and_fire
from espnet_hkd.errors import ConfigError
from espnet_hkd.nets.stretches import (
    round_stretches,
    scale_stretches,
    stretch_quantity_loss,
    token_stretches,
)
from tests.small_models import SIZE, make_batch, make_decoder, make_model

# Two tokens that lack mass, a stretch of two tokens, and one that is no token.
BUMPS = torch.tensor([[0.0, 0.7, 0.0, 0.6, 0.1, 0.0, 0.8, 0.9, 0.0, 0.3, 0.0, 1.0]])


def test_a_token_stands_where_it_has_begun_by_half_and_ends_in_the_middle():
    counts = torch.tensor(
        [
            [0.0, 0.6, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0],
            [0.4, 1.0, 1.6, 2.0, 2.0, 2.0, 2.0, 2.0],
        ]
    )
    stretches = token_stretches(counts, torch.tensor([3, 2]), 3)
    # Places 1, 5, 7 and 1, 2.
    assert stretches.tolist() == [[0, 0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 1, 1, 1, 1]]


def test_every_token_of_a_known_transcript_gets_the_frames_of_its_own():
    stretches = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3]])
    targets = torch.tensor([4])
    scaled = scale_stretches(BUMPS, stretches, targets)
    hidden = torch.nn.functional.one_hot(stretches, 4).float()
    fired = integrate_and_fire(hidden, scaled, torch.tensor([12]), targets=targets)
    # By the sum alone, a fifth of the second token lies in the frames of the first.
    assert fired.states[0] == pytest.approx(torch.eye(4).numpy(), abs=1e-5)
    free = integrate_and_fire(hidden, BUMPS, torch.tensor([12]), targets=targets)
    assert free.states[0, 1, 0] > 0.15


def test_the_quantity_loss_sees_what_two_errors_of_one_utterance_hide():
    weights = torch.tensor([[0.5, 1.5, 1.0]])
    targets = torch.tensor([3])
    by_tokens = torch.tensor([[0, 1, 2]])
    loss = stretch_quantity_loss(weights, by_tokens, targets, 3)
    assert loss.item() == pytest.approx(1.0)
    one = torch.zeros(1, 3, dtype=torch.long)
    assert stretch_quantity_loss(weights, one, targets, 3).item() == 0.0


def test_an_utterance_of_one_stretch_is_scaled_to_its_number_of_tokens():
    scaled = scale_stretches(
        BUMPS, torch.zeros(1, 12, dtype=torch.long), torch.tensor([6])
    )
    assert scaled.sum().item() == pytest.approx(6.0)
    assert not scaled[BUMPS == 0].any()


def test_each_stretch_is_rounded_to_whole_tokens_and_shifts_no_other():
    ways = round_stretches(BUMPS, 0.1)
    weights = ways.weights[0, 0]
    assert ways.tokens.tolist() == [[5]]
    sums = [
        weights[1:3].sum(),
        weights[3:6].sum(),
        weights[6:9].sum(),
        weights[9:11].sum(),
    ]
    assert torch.stack(sums).tolist() == pytest.approx([1, 1, 2, 0])
    assert ways.apart.item() == pytest.approx(0.3 + 0.3 + 0.3 + 0.3)


def test_the_most_doubtful_stretches_are_tried_both_ways_the_nearest_first():
    ways = round_stretches(torch.tensor([[0.9, 0.0, 0.55, 0.0, 0.4]]), 0.1, doubts=2)
    assert ways.tokens.tolist() == [[2, 1, 3, 2]]
    assert ways.apart[0].tolist() == pytest.approx([0.95, 1.05, 1.15, 1.25])
    assert ways.weights[0, 3].tolist() == pytest.approx([1, 0, 0, 0, 1])


def test_a_whole_number_is_no_doubt_and_silence_stays_silent():
    ways = round_stretches(
        torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), 0.1, doubts=1
    )
    assert ways.tokens.tolist() == [[1, 1], [0, 0]]
    assert ways.apart[:, 0].tolist() == [0, 0]
    assert ways.apart[:, 1].isinf().all()


def test_padding_and_batch_mates_change_no_rounding():
    alone = round_stretches(BUMPS, 0.1, doubts=3)
    padded = torch.zeros(2, 20)
    padded[1, :12] = BUMPS
    padded[0] = torch.rand(20, generator=torch.Generator().manual_seed(0))
    together = round_stretches(padded, 0.1, doubts=3)
    assert torch.equal(together.tokens[1], alone.tokens[0])
    assert together.weights[1, :, :12] == pytest.approx(alone.weights[0].numpy())
    assert not together.weights[1, :, 12:].any()


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -1.0], ids=str)
def test_a_weight_that_is_no_number_counts_as_none(odd):
    spoilt = BUMPS.clone()
    spoilt[0, 2] = odd
    assert torch.equal(
        round_stretches(spoilt, 0.1, doubts=2).weights,
        round_stretches(BUMPS, 0.1, doubts=2).weights,
    )
    stretches = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3]])
    targets = torch.tensor([4])
    assert torch.equal(
        scale_stretches(spoilt, stretches, targets),
        scale_stretches(BUMPS, stretches, targets),
    )
    losses = [
        stretch_quantity_loss(weights, stretches, targets, 4)
        for weights in (spoilt, BUMPS)
    ]
    assert losses[0] == losses[1]


def test_more_doubts_than_can_be_searched_are_refused():
    with pytest.raises(ConfigError, match="count_search 9"):
        round_stretches(BUMPS, 0.1, doubts=9)


class Given:
    """Weights that are given, in the place of the predictor."""

    def __init__(self, decoder, weights):
        decoder.predict_weights = lambda hidden, lengths: weights.expand(
            len(hidden), -1
        )


def rounded(**conf):
    decoder = make_decoder(valley=0.1, **conf).eval()
    Given(decoder, BUMPS)
    hidden = torch.randn(1, 12, SIZE, generator=torch.Generator().manual_seed(0))
    return decoder, hidden, torch.tensor([12])


def test_decoding_fires_the_rounded_tokens():
    decoder, hidden, lengths = rounded()
    fired = decoder.fire(hidden, lengths)
    assert fired.lengths.tolist() == [5]
    assert fired.ends[0].tolist() == pytest.approx([2, 5, 7 + 1 / 18, 8, 12], abs=1e-3)
    assert decoder.count(BUMPS).tolist() == [5]
    # The first token is the only frame that has mass there, whatever it lacks.
    assert fired.states[0, 0] == pytest.approx(hidden[0, 1].numpy(), abs=1e-6)


def test_told_a_number_it_fires_the_nearest_way_that_has_it():
    decoder, hidden, lengths = rounded(count_search=4)
    fired = decoder.fire(hidden, lengths, targets=torch.tensor([6]))
    # The stretch of 0.3 is the cheapest to gain a token, at 0.4 more.
    assert fired.states[0, 4] == pytest.approx(hidden[0, 9].numpy(), abs=1e-6)


def test_a_search_weighs_the_ways_by_how_much_they_change():
    decoder, hidden, lengths = rounded(count_search=2, count_penalty=2.0)
    shared = decoder.fire_counts(hidden, lengths)
    ways = round_stretches(BUMPS, 0.1, doubts=2)
    assert torch.equal(shared.lengths, ways.tokens)
    wanted = (-2.0 * ways.apart).log_softmax(-1)
    assert shared.prior == pytest.approx(wanted.numpy(), abs=1e-6)
    assert shared.most == (int(ways.tokens.max()),)


def test_a_valley_needs_no_count_search():
    decoder, hidden, lengths = rounded()
    shared = decoder.fire_counts(hidden, lengths)
    assert shared.lengths.tolist() == [[5]]
    assert shared.prior.tolist() == [[0.0]]


def test_training_with_tokens_of_their_own_learns_and_validation_is_as_published():
    torch.manual_seed(0)
    model = make_model(ctc_weight=0.5, token_scaling=1.0)
    batch = make_batch()
    model.train()
    loss, stats, _ = model(**batch)
    loss.backward()
    assert loss.isfinite() and stats["loss_quantity"] > 0
    gradient = model.decoder.weight_predictor.linear.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0
    published = make_model(ctc_weight=0.5)
    published.load_state_dict(model.state_dict())
    with torch.no_grad():
        ours = model.eval()(**batch)[1]
        theirs = published.eval()(**batch)[1]
    assert ours == theirs


def test_tokens_of_their_own_change_the_vectors_that_training_sees():
    torch.manual_seed(0)
    batch = make_batch()
    results = []
    for share in (0.0, 1.0):
        torch.manual_seed(0)
        model = make_model(ctc_weight=0.5, token_scaling=share).train()
        torch.manual_seed(1)
        results.append(model(**batch)[1]["loss_att"].item())
    assert results[0] != results[1]


def test_ctc_is_wanted_to_scale_tokens():
    with pytest.raises(ConfigError, match="token_scaling"):
        make_model(ctc_weight=0.0, token_scaling=0.5)
