"""The decoder under ESPnet's own beam search."""

import pytest
import torch
from espnet2.asr.ctc import CTC
from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch
from espnet2.legacy.nets.beam_search import BeamSearch
from espnet2.legacy.nets.scorers.ctc import CTCPrefixScorer
from espnet2.legacy.nets.scorers.length_bonus import LengthBonus
from espnet2.lm.seq_rnn_lm import SequentialRNNLM

from espnet_hkd.errors import ConfigError, SearchError
from tests.small_models import SIZE, VOCAB, make_decoder

EOS = len(VOCAB) - 1


def make_search(decoder, *, beam=4, ctc_weight=0.0, lm_weight=0.0, penalty=0.0):
    torch.manual_seed(1)
    lm = SequentialRNNLM(len(VOCAB), unit=8, nlayers=1)
    scorers = {
        "decoder": decoder,
        "ctc": CTCPrefixScorer(CTC(len(VOCAB), SIZE), eos=EOS),
        "lm": lm,
        "length_bonus": LengthBonus(len(VOCAB)),
    }
    return BatchBeamSearch(
        beam_size=beam,
        weights={
            "decoder": 1 - ctc_weight,
            "ctc": ctc_weight,
            "lm": lm_weight,
            "length_bonus": penalty,
        },
        scorers=scorers,
        sos=EOS,
        eos=EOS,
        vocab_size=len(VOCAB),
        pre_beam_score_key="full",
    ).eval()


def encoder_output(*lengths, seed=3):
    torch.manual_seed(seed)
    return [torch.randn(length, SIZE) for length in lengths]


def count_fired(decoder, hidden):
    return int(decoder.fire(hidden[None], torch.tensor([len(hidden)])).lengths[0])


def labels_of(hypothesis):
    """As `asr_inference` reads them: without blanks."""
    return [token for token in hypothesis.yseq[1:-1].tolist() if token != 0]


@torch.no_grad()
def teacher_forced_score(decoder, hidden, labels, fired):
    """Sum of the log probabilities of the F tokens, in one pass."""
    tokens = [*labels, EOS][:fired]
    states = decoder.fire(hidden[None], torch.tensor([len(hidden)])).states
    logits, _ = decoder.forward_tokens(states, torch.tensor([[EOS, *tokens]])[:, :-1])
    logp = logits[0].log_softmax(-1)
    return float(logp[torch.arange(fired), torch.tensor(tokens)].sum())


@torch.no_grad()
def test_beam_of_one_equals_greedy_by_hand():
    decoder = make_decoder()
    (hidden,) = encoder_output(23)
    states = decoder.fire(hidden[None], torch.tensor([23])).states
    fired = states.size(1)
    assert fired > 3
    tokens = [EOS]
    for step in range(fired):
        logits, _ = decoder.forward_tokens(
            states[:, : step + 1], torch.tensor([tokens])
        )
        logp = logits[0, -1].log_softmax(-1)
        logp[[0, 1]] = -torch.inf
        if step < fired - 1:
            logp[EOS] = -torch.inf
        tokens.append(int(logp.argmax()))
    if tokens[-1] != EOS:
        tokens.append(EOS)
    best = make_search(decoder, beam=1)(hidden)[0]
    assert best.yseq.tolist() == tokens


@pytest.mark.parametrize("beam", [1, 2, 7, 20])
def test_scores_equal_the_teacher_forced_pass(beam):
    decoder = make_decoder()
    (hidden,) = encoder_output(31)
    fired = count_fired(decoder, hidden)
    hypotheses = make_search(decoder, beam=beam)(hidden)
    possible = [h for h in hypotheses if h.score > -1e8]
    assert len(possible) >= min(beam, 2)
    for hypothesis in possible:
        labels = labels_of(hypothesis)
        assert len(labels) in (fired - 1, fired)
        expected = teacher_forced_score(decoder, hidden, labels, fired)
        assert float(hypothesis.score) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ctc_weight": 0.3},
        {"ctc_weight": 0.3, "lm_weight": 0.5},
        {"penalty": 2.0},
        {"penalty": -2.0, "ctc_weight": 0.5, "lm_weight": 1.0},
    ],
    ids=["alone", "ctc", "ctc_and_lm", "length_bonus", "everything"],
)
def test_batch_of_utterances_gives_the_hypotheses_of_each_alone(options):
    decoder = make_decoder()
    utterances = encoder_output(31, 9, 20, 14)
    search = make_search(decoder, **options)
    alone = [search(hidden) for hidden in utterances]
    padded = torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True)
    for row, hidden in enumerate(utterances):
        padded[row, len(hidden) :] = torch.nan
    lengths = torch.tensor([len(hidden) for hidden in utterances])
    if "ctc_weight" in options:
        # ESPnet's own CTC scorer reads padding, so that NaN is for the decoder alone.
        padded = padded.nan_to_num(7.0)
    together = search(padded, x_lengths=lengths)
    for one, other in zip(alone, together, strict=True):
        assert labels_of(one[0]) == labels_of(other[0])
        assert float(one[0].score) == pytest.approx(float(other[0].score), abs=1e-4)


@pytest.mark.parametrize("penalty", [-5.0, 0.0, 5.0])
@pytest.mark.parametrize("ctc_weight", [0.0, 0.5])
def test_length_follows_from_the_firings_whatever_the_other_scorers_want(
    penalty, ctc_weight
):
    decoder = make_decoder()
    for hidden in encoder_output(31, 9, 4):
        fired = count_fired(decoder, hidden)
        search = make_search(
            decoder, penalty=penalty, ctc_weight=ctc_weight, lm_weight=0.5
        )
        best = search(hidden)[0]
        assert len(labels_of(best)) in (max(fired - 1, 0), fired)
        assert best.yseq[-1] == EOS
        assert float(best.score) > -1e8


@pytest.mark.parametrize("count_search", [0, 1])
@pytest.mark.parametrize("beam", [1, 5, 20])
@pytest.mark.parametrize("ctc_weight", [0.0, 0.3, 0.7])
def test_espnets_search_ends_three_steps_after_the_last_token_at_most(
    ctc_weight, beam, count_search
):
    decoder = make_decoder(count_search=count_search)
    utterances = encoder_output(31, 9, 20)
    steps = []
    batch_score = decoder.batch_score
    decoder.batch_score = lambda ys, *args, **kwargs: (
        steps.append(ys.size(1)) or batch_score(ys, *args, **kwargs)
    )
    search = make_search(decoder, beam=beam, ctc_weight=ctc_weight)
    for hidden in utterances:
        steps.clear()
        search(hidden, maxlenratio=0.0)
        # Those whose end has no firing of its own, those that fill the beam of a
        # search that cannot be told to stop, and the end of these.
        assert len(steps) <= count_fired(decoder, hidden) + count_search + 3
    steps.clear()
    padded = torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True)
    search(padded, x_lengths=torch.tensor([31, 9, 20]), maxlenratio=0.0)
    most = max(count_fired(decoder, hidden) for hidden in utterances)
    assert len(steps) <= most + count_search + 3


@pytest.mark.parametrize("maxlenratio", [0.0, 3.0])
@pytest.mark.parametrize("ctc_weight", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("initial_weight", [0.001, 0.4, 0.99])
def test_utterances_of_a_frame_or_two_end_once(initial_weight, ctc_weight, maxlenratio):
    decoder = make_decoder(initial_weight=initial_weight)
    search = make_search(decoder, beam=5, ctc_weight=ctc_weight)
    utterances = encoder_output(1, 2, 2, 1)
    padded = torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True)
    lengths = torch.tensor([1, 2, 2, 1])
    together = search(padded, x_lengths=lengths, maxlenratio=maxlenratio)
    for hidden, ranked in zip(utterances, together, strict=True):
        fired = count_fired(decoder, hidden)
        alone = search(hidden, maxlenratio=maxlenratio)
        for best in (alone[0], ranked[0]):
            assert EOS not in labels_of(best)
            assert len(labels_of(best)) in (max(fired - 1, 0), fired)


def test_nothing_fired_gives_an_empty_hypothesis_of_score_zero():
    decoder = make_decoder(initial_weight=0.001)
    (hidden,) = encoder_output(12)
    assert count_fired(decoder, hidden) == 0
    best = make_search(decoder)(hidden)[0]
    assert best.yseq.tolist() == [EOS, EOS]
    assert float(best.score) == 0.0


def test_early_eos_admits_shorter_hypotheses():
    (hidden,) = encoder_output(31)
    lengths = {}
    for early_eos in (False, True):
        decoder = make_decoder(early_eos=early_eos)
        with torch.no_grad():
            decoder.output_layer.weight[EOS] = decoder.output_layer.weight.sum(0)
        hypotheses = make_search(decoder, beam=20)(hidden)
        lengths[early_eos] = {len(labels_of(h)) for h in hypotheses if h.score > -1e8}
    fired = count_fired(make_decoder(), hidden)
    assert lengths[False] <= {fired - 1, fired}
    assert min(lengths[True]) < fired - 1


@torch.no_grad()
def mixture_score(decoder, hidden, labels, reach):
    """Log of the sum, over counts, of the tokens' probability under each."""
    lengths = torch.tensor([len(hidden)])
    own = decoder.fire(hidden[None], lengths)
    counts = [own.lengths[0] + d for d in range(-reach, reach + 1)]
    cost = decoder.count_penalty
    prior = torch.stack([-cost * (count - own.mass[0]).abs() for count in counts])
    terms = []
    for count, weight in zip(counts, prior.log_softmax(0), strict=True):
        tokens = [*labels, EOS][:count]
        if len(labels) not in (count - 1, count):
            continue
        fired = decoder.fire(hidden[None], lengths, targets=count[None])
        ys_in = torch.tensor([[EOS, *tokens[:-1]]])
        logits, _ = decoder.forward_tokens(fired.states[:, :count], ys_in)
        logp = logits[0].log_softmax(-1)
        terms.append(weight + logp[range(int(count)), tokens].sum())
    return float(torch.stack(terms).logsumexp(0))


@pytest.mark.parametrize("reach", [1, 2])
def test_count_search_scores_the_mixture_over_counts(reach):
    decoder = make_decoder(count_search=reach, count_penalty=0.5)
    for hidden in encoder_output(31, 20):
        hypotheses = make_search(decoder, beam=8)(hidden)
        lengths = {len(labels_of(h)) for h in hypotheses[:8]}
        assert len(lengths) > 1
        for hypothesis in hypotheses[:8]:
            wanted = mixture_score(decoder, hidden, labels_of(hypothesis), reach)
            assert float(hypothesis.score) == pytest.approx(wanted, abs=1e-4)


def test_count_search_with_batch_mates_finds_the_same():
    decoder = make_decoder(count_search=1)
    inputs = encoder_output(31, 20, 9)
    padded = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
    lengths = torch.tensor([len(hidden) for hidden in inputs])
    search = make_search(decoder, ctc_weight=0.3)
    together = search(padded, x_lengths=lengths)
    for hidden, ranked in zip(inputs, together, strict=True):
        alone = search(hidden)[0]
        assert labels_of(ranked[0]) == labels_of(alone)
        assert float(ranked[0].score) == pytest.approx(float(alone.score), abs=1e-4)


def test_count_search_keeps_the_count_that_a_high_penalty_dictates():
    hidden = encoder_output(31)[0]
    decoder = make_decoder(count_search=2, count_penalty=1e4)
    fired = decoder.fire(hidden[None], torch.tensor([len(hidden)]))
    nearest = int(fired.mass[0].round())
    best = make_search(decoder)(hidden)[0]
    assert len(labels_of(best)) in (nearest - 1, nearest)


def test_counts_that_are_not_in_doubt_are_not_tried():
    """A sum of 6.3 is 6 or 7 tokens with a doubt of 0.5, and one of 6.1 is 6."""
    decoder = make_decoder(count_search=2, tail=0.5)
    hidden = torch.stack([*encoder_output(20), *encoder_output(20)])
    lengths = torch.tensor([20, 20])
    weights = torch.zeros(2, 20)
    weights[:, :6] = 1.0
    weights[:, 6] = torch.tensor([0.3, 0.1])
    decoder.predict_weights = lambda hidden, lengths: weights
    for doubt, counts in [(0.5, [{6, 7}, {6}]), (0.0, [{6}, {6}]), (0.9, [{6, 7}] * 2)]:
        options = decoder.options._replace(count_doubt=doubt)
        shared = decoder.fire_counts(hidden, lengths, options)
        tried = shared.lengths.masked_fill(shared.prior < -1e6, 0)
        assert [set(row.tolist()) - {0} for row in tried] == counts
        # What is tried for no utterance is not computed.
        assert shared.lengths.size(1) == len(set.union(*counts))
        assert shared.most == tuple(max(each) for each in counts)
        assert shared.prior.exp().sum(1).tolist() == pytest.approx([1.0, 1.0])


def test_the_count_that_the_weights_say_is_always_tried():
    """With a low tail it may be farther from their sum than another."""
    decoder = make_decoder(count_search=1, tail=0.2, count_doubt=0.0)
    hidden, lengths = torch.stack(encoder_output(20)), torch.tensor([20])
    weights = torch.zeros(1, 20)
    weights[:, :4] = 0.825  # 3.3
    decoder.predict_weights = lambda hidden, lengths: weights
    assert sorted(decoder.fire_counts(hidden, lengths).lengths[0].tolist()) == [3, 4]


@pytest.mark.parametrize("valley", [0.0, 0.1])
def test_without_doubt_count_search_costs_nothing_and_scores_the_own_count(valley):
    decoder = make_decoder(count_search=2, count_doubt=0.0, valley=valley)
    inputs = encoder_output(31, 20)
    for hidden in inputs:
        shared = decoder.fire_counts(hidden[None], torch.tensor([len(hidden)]))
        assert shared.lengths.shape == (1, 1)
        best = make_search(decoder)(hidden)[0]
        count = int(shared.lengths[0, 0])
        assert len(labels_of(best)) in (count - 1, count)
        assert shared.prior.tolist() == [[0.0]]


def test_count_search_leaves_silence_empty():
    decoder = make_decoder(initial_weight=0.001, count_search=2, count_penalty=0.0)
    best = make_search(decoder)(encoder_output(12)[0])[0]
    assert labels_of(best) == []
    assert float(best.score) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("emit_unk", [False, True])
def test_unk_is_emitted_only_when_allowed_and_blank_never(emit_unk):
    decoder = make_decoder(emit_unk=emit_unk)
    (hidden,) = encoder_output(31)
    state = decoder.init_state(hidden)
    xs = hidden[None]
    logp, _ = decoder.batch_score(torch.tensor([[EOS]]), [state], xs)
    assert logp[0, 0] < -1e8
    assert (logp[0, 1] > -1e8) == emit_unk


def test_one_step_computes_one_position():
    decoder = make_decoder()
    (hidden,) = encoder_output(40)
    positions = []
    for layer in decoder.layers:
        layer.self_attn.linear_k.register_forward_hook(
            lambda module, inputs, output: positions.append(inputs[0].size(1))
        )
    make_search(decoder)(hidden)
    assert len(positions) >= 2 * len(decoder.layers)
    assert set(positions) == {1}


@pytest.mark.parametrize("count_search", [0, 2])
def test_fires_once_per_utterance(count_search):
    decoder = make_decoder(count_search=count_search)
    calls = []
    decoder.weight_predictor.register_forward_hook(
        lambda module, inputs, output: calls.append(inputs[0].size(0))
    )
    padded = torch.nn.utils.rnn.pad_sequence(encoder_output(20, 14), batch_first=True)
    make_search(decoder)(padded, x_lengths=torch.tensor([20, 14]))
    assert calls == [2]


def test_teacher_forced_forward_scales_to_the_targets():
    decoder = make_decoder()
    hidden = torch.nn.utils.rnn.pad_sequence(encoder_output(20, 14), batch_first=True)
    ys_in = torch.tensor([[EOS, 3, 4, 5], [EOS, 3, EOS, EOS]])
    logits, lengths = decoder(
        hidden, torch.tensor([20, 14]), ys_in, torch.tensor([4, 2])
    )
    assert logits.shape == (2, 4, len(VOCAB))
    assert lengths.tolist() == [4, 2]


def test_time_synchronous_search_is_refused():
    decoder = make_decoder()
    search = BeamSearch(
        beam_size=2,
        weights={"decoder": 1.0},
        scorers={"decoder": decoder},
        sos=EOS,
        eos=EOS,
        vocab_size=len(VOCAB),
    )
    with pytest.raises(SearchError, match="time_sync: false"):
        search(encoder_output(9)[0])


def test_partially_autoregressive_search_is_refused():
    with pytest.raises(SearchError, match="partial_ar: false"):
        make_decoder().batch_score_partially_AR(None, None, None, None)


def test_streaming_search_is_refused():
    decoder = make_decoder()
    (hidden,) = encoder_output(30)
    ys = torch.tensor([[EOS]])
    _, states = decoder.batch_score(
        ys, [decoder.init_state(hidden[:20])], hidden[None, :20]
    )
    with pytest.raises(SearchError, match="streaming: false"):
        decoder.batch_score(torch.tensor([[EOS, 3]]), states, hidden[None])


@pytest.mark.parametrize(
    ("conf", "named"),
    [
        ({"tial": 0.4}, "tial"),
        ({"tail": 1.5}, "tail"),
        ({"tail": "half"}, "tail"),
        ({"tail": "4e-1"}, r"tail(.|\n)*1\.0e-3"),
        ({"tail": float("nan")}, "tail"),
        ({"threshold": 0.5}, "threshold"),
        ({"threshold": 0.4}, "threshold"),
        ({"num_blocks": 1.5}, "num_blocks"),
        ({"attention_heads": 3}, "attention_heads"),
        ({"dropout_rate": -0.1}, "dropout_rate"),
        ({"early_eos": "yes"}, "early_eos"),
        ({"count_search": -1}, "count_search"),
        ({"count_search": 0.5}, "count_search"),
        ({"count_doubt": -0.1}, "count_doubt"),
        ({"count_doubt": "all"}, "count_doubt"),
        ({"count_penalty": -0.1}, "count_penalty"),
        ({"initial_weight": 0.0}, "initial_weight"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_wrong_option_is_named(conf, named):
    with pytest.raises(ConfigError, match=named) as caught:
        make_decoder(**conf)
    assert caught.value.wanted and caught.value.remedy


@pytest.mark.parametrize("tail", [0, 0.0, 1, 1.0], ids=repr)
@pytest.mark.parametrize("threshold", [1, 0.501])
def test_the_ends_of_the_ranges_decode(tail, threshold):
    decoder = make_decoder(tail=tail, threshold=threshold)
    (hidden,) = encoder_output(23)
    best = make_search(decoder)(hidden)[0]
    fired = count_fired(decoder, hidden)
    assert len(labels_of(best)) in (fired - 1, fired)
    mass = float(decoder.weight_predictor(hidden[None], torch.tensor([23])).sum())
    whole = int(mass + 1 - threshold)
    assert fired == whole + (mass - whole > tail)


def test_half_precision_decodes_as_float32():
    decoder = make_decoder()
    (hidden,) = encoder_output(31)
    full = make_search(decoder)(hidden)[0]
    half = make_decoder().to(torch.bfloat16)
    search = make_search(half).to(dtype=torch.bfloat16)
    lowered = search(hidden.to(torch.bfloat16))[0]
    assert len(lowered.yseq) == len(full.yseq)
