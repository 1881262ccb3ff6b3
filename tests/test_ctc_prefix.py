"""CTC prefix scores: ESPnet's, and sums over all paths."""

import itertools

import numpy as np
import pytest
import torch
from espnet2.legacy.nets.ctc_prefix_score import CTCPrefixScoreTH

from espnet_hkd.ctc.prefix import LOG_ZERO, PrefixScorer
from espnet_hkd.ctc.prefix_torch import TorchPrefixScorer

V = 6
EOS = V - 1
LENGTHS = (23, 9, 2, 1)


def log_probabilities(lengths=LENGTHS, *, scale=3.0, seed=0):
    torch.manual_seed(seed)
    logits = scale * torch.randn(len(lengths), max(lengths), V, dtype=torch.float64)
    return logits.log_softmax(-1)


def compiled(logp, lengths=LENGTHS):
    # What lies beyond an utterance's end is never read.
    noisy = logp.numpy().copy()
    for row, length in enumerate(lengths):
        noisy[row, length:] = np.nan
    return PrefixScorer(noisy, np.array(lengths)), np.array


def by_operators(logp, lengths=LENGTHS):
    return TorchPrefixScorer(logp, torch.tensor(lengths)), torch.tensor


@pytest.fixture(params=[compiled, by_operators], ids=["compiled", "operators"])
def make(request):
    return request.param


def espnets_scores(logp, label_steps):
    """Total scores (B, V) of ESPnet's scorer after each step of labels (B,)."""
    scorer = CTCPrefixScoreTH(logp.clone(), torch.tensor(LENGTHS), 0, EOS)
    ys = torch.full((len(LENGTHS), 1), EOS)
    state, totals = None, []
    for labels in [*label_steps, None]:
        _, state = scorer(ys, state)
        totals.append(state[1].clone())
        if labels is not None:
            best = torch.tensor(labels)[:, None]
            state = scorer.index_select_state(state, best)
            ys = torch.cat([ys, best], dim=1)
    return totals


@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
def test_scores_are_espnets(make, scale):
    logp = log_probabilities(scale=scale)
    steps = [[1, 2, 3, 4], [1, 2, 1, 4], [2, 4, 1, 1], [2, 3, 3, 1]]
    expected = espnets_scores(logp, steps)
    scorer, array = make(logp)
    prefixes = scorer.start()
    labels = array([list(range(1, EOS))] * len(LENGTHS))
    for step, wanted in enumerate(expected):
        got = torch.as_tensor(scorer.score(prefixes, labels))
        wanted = wanted.clamp(min=LOG_ZERO)
        assert torch.allclose(
            got.clamp(min=LOG_ZERO / 2),
            wanted[:, 1:EOS].clamp(min=LOG_ZERO / 2),
            rtol=1e-9,
            atol=1e-6,
        )
        ends = torch.as_tensor(prefixes.end).clamp(min=LOG_ZERO / 2)
        assert torch.allclose(
            ends, wanted[:, EOS].clamp(min=LOG_ZERO / 2), rtol=1e-9, atol=1e-6
        )
        if step < len(steps):
            rows = array(list(range(len(LENGTHS))))
            prefixes = scorer.extend(prefixes, rows, array(steps[step]))
            chosen = wanted[range(len(LENGTHS)), steps[step]]
            assert torch.allclose(
                torch.as_tensor(prefixes.score).clamp(min=LOG_ZERO / 2),
                chosen.clamp(min=LOG_ZERO / 2),
                rtol=1e-9,
                atol=1e-6,
            )


def path_sum(logp, wanted):
    """Log of the sum over all paths whose labels satisfy `wanted`; by definition."""
    total = 0.0
    frames = range(len(logp))
    for path in itertools.product(range(V), repeat=len(logp)):
        labels = [k for k, _ in itertools.groupby(path) if k != 0]
        if wanted(labels):
            total += np.exp(sum(logp[t, k] for t, k in zip(frames, path, strict=True)))
    return np.log(total)


@pytest.mark.parametrize("prefix", [[2], [2, 2], [1, 3]], ids=str)
def test_scores_are_sums_over_paths(make, prefix):
    lengths = (4,)
    logp = log_probabilities(lengths)
    scorer, array = make(logp, lengths)
    prefixes = scorer.start()
    for label in prefix:
        prefixes = scorer.extend(prefixes, array([0]), array([label]))
    each = logp[0].numpy()
    begins = path_sum(each, lambda labels: labels[: len(prefix)] == prefix)
    is_all = path_sum(each, lambda labels: labels == prefix)
    assert float(prefixes.score[0]) == pytest.approx(begins, abs=1e-9)
    assert float(prefixes.end[0]) == pytest.approx(is_all, abs=1e-9)


def test_hypotheses_of_one_utterance_are_chosen_and_reordered(make):
    logp = log_probabilities()
    scorer, array = make(logp)
    prefixes = scorer.extend(scorer.start(), array([1, 0, 0]), array([4, 2, 3]))
    assert [int(b) for b in prefixes.utterance] == [1, 0, 0]
    together = torch.as_tensor(scorer.score(prefixes, array([[1, 2]] * 3)))
    for row, (utterance, label) in enumerate([(1, 4), (0, 2), (0, 3)]):
        alone = scorer.extend(scorer.start(), array([utterance]), array([label]))
        expected = torch.as_tensor(scorer.score(alone, array([[1, 2]])))
        assert torch.equal(together[row], expected[0])


def test_blank_is_never_a_label(make):
    scorer, array = make(log_probabilities())
    scores = scorer.score(scorer.start(), array([[0, 1]] * len(LENGTHS)))
    assert [float(s) for s in scores[:, 0]] == [LOG_ZERO] * len(LENGTHS)
