"""Where CTC says that tokens begin, and the weights that follow it."""

from __future__ import annotations

import itertools

import pytest
import torch

from espnet_hkd.losses.counts import count_alignment_loss, ctc_expected_counts


def expected_by_listing(logp, text):
    """The same by all alignments one by one, for one short utterance (T, V)."""
    total, sums = 0.0, torch.zeros(len(logp))
    for path in itertools.product(range(logp.size(1)), repeat=len(logp)):
        said = [k for k, _ in itertools.groupby(path) if k]
        if said != text:
            continue
        probability = sum(logp[t, k] for t, k in enumerate(path)).exp()
        begun, counts = 0, []
        for t, k in enumerate(path):
            begun += k != 0 and (t == 0 or path[t - 1] != k)
            counts.append(begun + (begun == len(text) and k == 0))
        counts[-1] = len(text) + 1
        total += probability
        sums += probability * torch.tensor(counts, dtype=torch.float32)
    return sums / total


@pytest.mark.parametrize("text", [[1], [1, 2], [2, 2], []], ids=str)
def test_expected_counts_are_those_of_all_alignments(text):
    torch.manual_seed(0)
    logp = torch.randn(5, 3).log_softmax(-1)
    labels = torch.tensor([[*text, -1]])
    got = ctc_expected_counts(
        logp[None], torch.tensor([5]), labels, torch.tensor([len(text)])
    )
    torch.testing.assert_close(got[0], expected_by_listing(logp, text))


def test_alone_equals_padded_in_a_batch():
    torch.manual_seed(0)
    logp = torch.randn(2, 9, 4).log_softmax(-1)
    text, frames = torch.tensor([[1, 2, 3], [3, -1, -1]]), torch.tensor([9, 6])
    both = ctc_expected_counts(logp, frames, text, torch.tensor([3, 1]))
    alone = ctc_expected_counts(
        logp[1:, :6], frames[1:], text[1:, :1], torch.tensor([1])
    )
    torch.testing.assert_close(both[1, :6], alone[0])
    assert both[1, 6:].tolist() == [2, 2, 2]


def test_a_transcript_that_does_not_fit_gives_a_line():
    logp = torch.zeros(1, 3, 4).log_softmax(-1)
    got = ctc_expected_counts(
        logp, torch.tensor([3]), torch.tensor([[1, 1, 1]]), torch.tensor([3])
    )
    torch.testing.assert_close(got, torch.tensor([[4 / 3, 8 / 3, 4.0]]))


def test_the_loss_is_0_where_weights_follow_and_sees_where_they_do_not():
    counts = torch.tensor([[0.0, 1.0, 1.0, 2.0], [0.5, 1.0, 1.0, 1.0]])
    weights = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.5, 0.5, 0.0, 0.0]])
    lengths = torch.tensor([4, 2])
    assert count_alignment_loss(weights, counts, lengths) == 0
    # The same sum, a frame early.
    early = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.0, 0.0]])
    assert count_alignment_loss(early, counts, lengths) == pytest.approx(0.25)


def test_gradients_are_finite_and_reach_the_weights_only():
    logp = torch.randn(2, 6, 4).log_softmax(-1).requires_grad_()
    weights = torch.rand(2, 6, requires_grad=True)
    lengths = torch.tensor([6, 1])
    counts = ctc_expected_counts(
        logp, lengths, torch.tensor([[1, 2], [1, -1]]), torch.tensor([2, 1])
    )
    count_alignment_loss(weights, counts, lengths).backward()
    assert logp.grad is None
    assert torch.isfinite(weights.grad).all() and weights.grad.abs().sum() > 0
