"""Running means of tokens, and the vectors they give text without speech."""

from __future__ import annotations

import pytest
import torch

from espnet_hkd.nets.pseudo_speech import PseudoSpeech
from espnet_hkd.nets.token_means import MOMENTUM, TokenMeans


def test_the_first_batch_gives_the_mean_itself():
    means = TokenMeans(4, 2)
    means.update(
        torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]]), torch.tensor([2, 2, 0])
    )
    assert means(torch.tensor([2, 0, 1])).tolist() == [[2, 1], [5, 5], [0, 0]]
    assert means.knows(torch.arange(4)).tolist() == [True, False, True, False]


def test_later_batches_weigh_as_a_running_mean():
    means, values = TokenMeans(1, 1), [4.0, 8.0, 1.0]
    for value in values:
        means.update(torch.tensor([[value]]), torch.tensor([0]))
    weights = [(1 - MOMENTUM) * MOMENTUM**age for age in (2, 1, 0)]
    wanted = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert float(means(torch.tensor(0))) == pytest.approx(wanted, rel=1e-5)


TOKENS = torch.arange(5).repeat(200)[None]


def speech() -> torch.Tensor:
    """Token t sounds like (t, -t); what is apart from that lies on a line."""
    torch.manual_seed(0)
    apart = torch.randn(1, 1000, 1) * torch.tensor([0.5, 2.0])
    return torch.stack([TOKENS, -TOKENS], -1) + apart


def heard(**options) -> PseudoSpeech:
    """A codebook of speech."""
    pseudo = PseudoSpeech(6, 2, **options)
    pseudo.update(speech(), TOKENS)
    return pseudo


def test_text_sounds_as_its_tokens_were_heard():
    pseudo = heard(noise=0.0, confusions=0.0, masks=0.0)
    vectors = pseudo(torch.tensor([[4, 1, -1]]), speech(), TOKENS)
    torch.testing.assert_close(
        vectors,
        torch.tensor([[[4.0, -4.0], [1.0, -1.0], [0.0, 0.0]]]),
        atol=0.4,
        rtol=0,
    )


def test_noise_is_what_spoken_tokens_differ_by():
    """As wide, and in the same directions: all of it lies on one line."""
    pseudo = heard(noise=1.0, confusions=0.0, masks=0.0)
    vectors = pseudo(torch.full((1, 20000), 2), speech(), TOKENS)
    torch.testing.assert_close(
        vectors.std(1), torch.tensor([[0.5, 2.0]]), atol=0.0, rtol=0.1
    )
    assert float(torch.corrcoef(vectors[0].T)[0, 1]) > 0.99
    twice = heard(noise=2.0, confusions=0.0, masks=0.0)
    vectors = twice(torch.full((1, 20000), 2), speech(), TOKENS)
    torch.testing.assert_close(
        vectors.std(1), torch.tensor([[1.0, 4.0]]), atol=0.0, rtol=0.1
    )


def test_padding_and_overflow_of_speech_are_no_noise():
    pseudo = heard(noise=1.0, confusions=0.0, masks=0.0)
    fired, tokens = speech(), TOKENS.clone()
    fired[:, :400] = 1e6
    tokens[:, :400] = -1
    fired[:, 400:500] = float("inf")
    vectors = pseudo(torch.full((1, 20000), 2), fired, tokens)
    assert float(vectors.abs().max()) < 20
    none = pseudo(torch.full((1, 9), 2), fired[:, :500], tokens[:, :500])
    torch.testing.assert_close(none, pseudo.means(torch.full((1, 9), 2)))


def test_shares_of_the_tokens_are_confused_and_masked():
    pseudo = heard(noise=0.0, confusions=0.3, masks=0.2)
    tokens = torch.tensor([[0, 4]]).repeat(1, 10000)
    vectors = pseudo(tokens, speech(), TOKENS)
    masked = (vectors == 0).all(-1)
    assert masked.float().mean() == pytest.approx(0.2, abs=0.02)
    said = vectors[..., 0].round().long()
    # Half of the confused tokens draw themselves.
    assert (said != tokens)[~masked].float().mean() == pytest.approx(0.15, abs=0.02)


def test_a_sentence_with_an_unheard_token_is_known_as_such():
    known = heard().knows(torch.tensor([[0, 1, -1], [0, 5, 1]]))
    assert known.tolist() == [True, False]


def test_a_training_that_goes_on_has_the_same_codebook():
    pseudo, fresh = heard(), PseudoSpeech(6, 2)
    fresh.load_state_dict(pseudo.state_dict())
    for name, value in pseudo.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value)
