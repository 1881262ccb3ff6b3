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


def heard(**options) -> PseudoSpeech:
    """A codebook in which token t sounds like (t, -t), with deviations 0.5 and 2."""
    torch.manual_seed(0)
    pseudo = PseudoSpeech(6, 2, **options)
    tokens = torch.arange(5).repeat(200)
    for _ in range(3):
        noise = torch.randn(1000, 2) * torch.tensor([0.5, 2.0])
        pseudo.update(torch.stack([tokens, -tokens], 1) + noise, tokens)
    return pseudo


def test_text_sounds_as_its_tokens_were_heard():
    pseudo = heard(noise=0.0, confusions=0.0, masks=0.0)
    vectors = pseudo(torch.tensor([[4, 1, -1]]))
    torch.testing.assert_close(
        vectors,
        torch.tensor([[[4.0, -4.0], [1.0, -1.0], [0.0, 0.0]]]),
        atol=0.3,
        rtol=0,
    )


def test_noise_is_as_wide_as_tokens_vary():
    pseudo = heard(noise=1.0, confusions=0.0, masks=0.0)
    vectors = pseudo(torch.full((1, 20000), 2))
    torch.testing.assert_close(
        vectors.std(1), torch.tensor([[0.5, 2.0]]), atol=0.0, rtol=0.1
    )


def test_shares_of_the_tokens_are_confused_and_masked():
    pseudo = heard(noise=0.0, confusions=0.3, masks=0.2)
    tokens = torch.tensor([[0, 4]]).repeat(1, 10000)
    vectors = pseudo(tokens)
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
