"""Weights fitted anew to a trained model's encoder output."""

from __future__ import annotations

import pytest
import torch

import espnet_hkd
from espnet_hkd.bin.fit_weights import main
from espnet_hkd.cif import WeightPredictor
from espnet_hkd.nets.weight_fit import (
    Encoded,
    fit_weights,
    utterance_mass,
    weights_to_keep,
)
from tests.small_models import SIZE, pack, speech, write_experiment


def encoded(tokens, pause, seed):
    """Frames of noise; a token is a frame with a mark, and a pause has none."""
    generator = torch.Generator().manual_seed(seed)
    frames = 0.3 * torch.randn(6 * tokens + pause, SIZE, generator=generator)
    frames[:, 0] = 0.0
    frames[3 : 6 * tokens : 6, 0] = 4.0
    return Encoded(frames, tokens)


def test_counts_are_learnt_and_a_pause_above_the_floor_stays_silent():
    training = [encoded(1 + s % 5, 10 * (s % 4), s) for s in range(60)]
    torch.manual_seed(0)
    start = WeightPredictor(SIZE, initial_weight=0.15, floor=0.05, dropout_rate=0.0)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    fitted = fit_weights(start, training, epochs=60, rate=0.01, batch=8)
    held_out = [encoded(1 + s % 5, 10, 1000 + s) for s in range(10)]
    tokens = torch.tensor([float(each.tokens) for each in held_out])
    with torch.no_grad():
        error = (utterance_mass(fitted, held_out) - tokens).abs()
        pause = utterance_mass(fitted, [encoded(1, 1500, 7)])
    assert float(error.max()) < 0.5
    # A minute of pause; what was given is left as it was.
    assert float(pause) == pytest.approx(1.0, abs=0.5)
    assert all(torch.equal(before[n], v) for n, v in start.state_dict().items())


def test_utterances_may_keep_the_weights_they_had():
    torch.manual_seed(0)
    start = WeightPredictor(SIZE, initial_weight=0.15)
    torch.nn.init.normal_(start.linear.weight)
    training = [encoded(2, 5, s) for s in range(8)]
    kept = [
        e._replace(weights=weights_to_keep(start.eval(), e.hidden)) for e in training
    ]
    distances = {}
    for name, utterances in (("free", training), ("kept", kept)):
        fitted = fit_weights(start, utterances, epochs=5, rate=0.01, keep=20.0)
        with torch.no_grad():
            distances[name] = sum(
                (fitted(e.hidden[None], torch.tensor([len(e.hidden)]))[0] - e.weights)
                .abs()
                .sum()
                for e in kept
            )
    assert distances["kept"] < 0.7 * distances["free"]


def test_weights_to_keep_have_no_background_and_the_same_sum():
    torch.manual_seed(0)
    predictor = WeightPredictor(SIZE, initial_weight=0.05).eval()
    torch.nn.init.normal_(predictor.linear.weight, std=2.0)
    hidden = encoded(3, 10, 0).hidden
    with torch.no_grad():
        before = predictor(hidden[None], torch.tensor([len(hidden)]))[0]
    kept = weights_to_keep(predictor, hidden)
    assert (before < 0.02).any()
    assert not kept[before < 0.02].any()
    assert float(kept.sum()) == pytest.approx(float(before.sum()), rel=1e-5)


def test_the_same_seed_gives_the_same_weights_and_leaves_other_randomness_alone():
    training = [encoded(2, 5, s) for s in range(6)]
    start, fits = WeightPredictor(SIZE), []
    for seed in (1, 1, 2):
        torch.manual_seed(9)
        fits.append(fit_weights(start, training, epochs=2, seed=seed).linear.weight)
        after = torch.rand(())
    torch.manual_seed(9)
    assert torch.equal(after, torch.rand(()))
    assert torch.equal(fits[0], fits[1])
    assert not torch.equal(fits[0], fits[2])


@pytest.fixture
def corpus(tmp_path):
    import soundfile

    data = tmp_path / "data"
    data.mkdir()
    lines = []
    for number in range(3):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, speech(1.5, seed=number), 16000)
        lines.append(f"u{number} {path}\n")
    (data / "wav.scp").write_text("".join(lines))
    (data / "text").write_text("u0 HELLO\nu1 A B\nu2 WORLD\n")
    return data


def arguments(tmp_path, corpus, *more):
    out = tmp_path / "fitted"
    return [str(tmp_path / "exp"), str(corpus), "--out", str(out), "--epochs=2", *more]


def test_an_experiment_gets_a_floor_and_new_weights_and_nothing_else(tmp_path, corpus):
    write_experiment(tmp_path / "exp")
    main(arguments(tmp_path, corpus, "--floor=0.1", "--pause_prob=0.9"))
    old = espnet_hkd.from_pretrained(tmp_path / "exp").model
    new = espnet_hkd.from_pretrained(tmp_path / "fitted").model
    assert old.decoder.weight_predictor.floor == 0.0
    assert new.decoder.weight_predictor.floor == 0.1
    was, states = old.state_dict(), new.state_dict()
    changed = {name for name in was if not torch.equal(was[name], states[name])}
    assert changed == {n for n in was if n.startswith("decoder.weight_predictor.")}


def test_a_packed_model_becomes_an_experiment_that_opens_without_it(
    tmp_path, corpus, monkeypatch
):
    import numpy as np

    stats = tmp_path / "exp" / "asr_stats" / "feats_stats.npz"
    stats.parent.mkdir(parents=True)
    np.savez(stats, count=100, sum=np.zeros(80), sum_square=np.full(80, 100.0))
    # Where the recipe runs.
    monkeypatch.chdir(tmp_path)
    write_experiment(
        tmp_path / "exp" / "asr_hkd",
        normalize="global_mvn",
        normalize_conf={"stats_file": "exp/asr_stats/feats_stats.npz"},
    )
    options = ["exp/asr_stats/feats_stats.npz"]
    packed = pack(tmp_path, exp="exp/asr_hkd", options=options)
    out = tmp_path / "fitted"
    main([str(packed), str(corpus), "--out", str(out), "--epochs=1"])
    packed.unlink()
    model = espnet_hkd.from_pretrained(out).model
    assert model.decoder.weight_predictor.floor == 0.05
    brought = out / "exp" / "asr_stats" / "feats_stats.npz"
    assert brought.read_bytes() == stats.read_bytes()


def test_an_experiment_that_is_there_is_not_written_over(tmp_path, corpus):
    write_experiment(tmp_path / "exp")
    write_experiment(tmp_path / "fitted", seed=1)
    before = (tmp_path / "fitted" / "config.yaml").read_text()
    with pytest.raises(SystemExit, match="is an experiment already"):
        main(arguments(tmp_path, corpus))
    assert (tmp_path / "fitted" / "config.yaml").read_text() == before


def test_audio_without_transcript_is_named(tmp_path, corpus):
    write_experiment(tmp_path / "exp")
    (corpus / "text").write_text("u0 HELLO\n")
    with pytest.raises(SystemExit, match="u1"):
        main(arguments(tmp_path, corpus))


def test_numbers_that_cannot_be_are_refused(tmp_path, corpus):
    write_experiment(tmp_path / "exp")
    for option in ("--floor=1.5", "--pause_prob=2"):
        with pytest.raises(SystemExit, match="out of range"):
            main(arguments(tmp_path, corpus, option))
    assert not (tmp_path / "fitted").exists()
