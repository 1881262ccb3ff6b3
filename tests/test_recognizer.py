"""From a packed model to transcripts, with ESPnet's own tools as the reference."""

import itertools
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml

import espnet_hkd
from espnet_hkd.errors import CheckpointError, ConfigError, DataError, SearchError
from espnet_hkd.pretrained.slim import slim
from espnet_hkd.speech.audio import cut_at_silences
from tests.recipe_material import REPOSITORY
from tests.small_models import SIZE, VOCAB, pack, speech, write_experiment


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe folder with an experiment, its slim model, and the packed zip."""
    folder = tmp_path_factory.mktemp("recipe")
    exp = write_experiment(folder / "exp" / "asr_hkd")
    (folder / "decode.yaml").write_text("ctc_weight: 0.3\nbeam_size: 4\n")
    slim(exp, inference_config=folder / "decode.yaml")
    pack(folder)
    return folder


@pytest.fixture(scope="module")
def recognizer(recipe):
    return espnet_hkd.from_pretrained(recipe / "model.zip")


def test_slim_model_has_neither_heads_nor_store(recipe):
    slimmed = recipe / "exp" / "asr_hkd" / "slim"
    weights = torch.load(slimmed / "train.total_count.ave.pth", weights_only=True)
    full = torch.load(
        recipe / "exp" / "asr_hkd" / "train.total_count.ave.pth", weights_only=True
    )
    dropped = set(full) - set(weights)
    assert dropped == {
        "kd_acd.weight",
        "kd_acd.bias",
        "kd_lrd.weight",
        "kd_lrd.bias",
    }
    config = yaml.safe_load((slimmed / "config.yaml").read_text())
    assert config["preprocessor"] == "default"
    assert config["preprocessor_conf"] == {}
    assert config["taught_with"]["acd_weight"] == 1.0
    assert "teacher" not in (slimmed / "config.yaml").read_text().replace(
        "teacher_dim", ""
    )


def test_packed_model_slim_folder_and_experiment_transcribe_alike(recipe, recognizer):
    audio = speech(3.0)
    (reference,) = recognizer(audio, sample_rate=16000)
    assert len(reference.text) > 3
    for name in ("exp/asr_hkd/slim", "exp/asr_hkd"):
        other = espnet_hkd.from_pretrained(recipe / name)
        (transcript,) = other(audio, sample_rate=16000, ctc_weight=0.3)
        assert transcript == reference


def test_packed_ctc_weight_is_the_default(recognizer):
    audio = speech(2.0)
    (default,) = recognizer(audio, sample_rate=16000)
    (same,) = recognizer(audio, sample_rate=16000, ctc_weight=0.3)
    (other,) = recognizer(audio, sample_rate=16000, ctc_weight=0.0)
    assert default == same
    assert default.score != other.score


def test_recordings_together_equal_each_alone_in_input_order(recognizer):
    audio = [speech(s, seed=i) for i, s in enumerate((1.3, 3.0, 0.6, 2.2))]
    alone = [recognizer(one, sample_rate=16000)[0] for one in audio]
    for batch_seconds in (0.1, 60.0):
        together = recognizer(audio, sample_rate=16000, batch_seconds=batch_seconds)
        assert [t.text for t in together] == [t.text for t in alone]
        for one, other in zip(alone, together, strict=True):
            assert other.score == pytest.approx(one.score, abs=1e-3)
            assert np.allclose(
                [t.end for t in one.tokens], [t.end for t in other.tokens]
            )


def test_token_times_rise_and_stay_inside_the_audio(recognizer):
    (transcript,) = recognizer(speech(3.0), sample_rate=16000)
    times = [time for token in transcript.tokens for time in (token.start, token.end)]
    assert times == sorted(times)
    assert times[0] >= 0.0
    assert times[-1] <= 3.0
    assert all(token.start < token.end for token in transcript.tokens)
    assert all(0.0 < token.confidence <= 1.0 for token in transcript.tokens)
    assert "".join(token.symbol for token in transcript.tokens) == transcript.text


def test_greedy_confidences_multiply_to_the_score_of_the_labels(recognizer):
    audio = speech(2.0)
    (transcript,) = recognizer(audio, sample_rate=16000, beam=1, ctc_weight=0.0)
    logs = sum(np.log(token.confidence) for token in transcript.tokens)
    assert logs == pytest.approx(transcript.score, abs=1e-3) or logs > transcript.score


def test_n_best_are_ranked_and_differ(recognizer):
    (ranked,) = recognizer(speech(1.5), sample_rate=16000, beam=5, nbest=4)
    assert len(ranked) == 4
    scores = [transcript.score for transcript in ranked]
    assert scores == sorted(scores, reverse=True)
    assert len({transcript.text for transcript in ranked}) == 4


@pytest.mark.parametrize("samples", [0, 1, 100, 400, 800])
def test_audio_below_one_encoder_frame_gives_an_empty_text(recognizer, samples):
    (transcript,) = recognizer(np.zeros(samples, np.float32), sample_rate=16000)
    assert transcript == ("", 0.0, [], [])


@pytest.mark.parametrize("samples", [1300, 1600, 2000, 3000])
def test_audio_of_a_few_frames_never_shows_the_end_symbol(recognizer, samples):
    (transcript,) = recognizer(speech(1.0)[:samples], sample_rate=16000)
    assert "<" not in transcript.text


def test_silence_is_decoded_without_a_fuss(recognizer):
    (transcript,) = recognizer(np.zeros(32000, np.float32), sample_rate=16000)
    assert np.isfinite(transcript.score)


def test_long_audio_is_cut_and_its_times_go_on(recognizer):
    audio = speech(65.0)
    (transcript,) = recognizer(audio, sample_rate=16000, beam=2)
    ends = [token.end for token in transcript.tokens]
    assert ends == sorted(ends)
    assert 60.0 < ends[-1] <= 65.0


def test_cuts_lie_in_the_silence():
    rate = 1000
    audio = np.ones(70 * rate, np.float32)
    audio[21_000:22_000] = 0.0
    audio[45_000:46_000] = 0.0
    pieces = cut_at_silences(audio, rate, 30.0)
    assert pieces[0][0] == 0 and pieces[-1][1] == len(audio)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(pieces))
    assert 21_000 < pieces[0][1] < 22_000
    assert 45_000 < pieces[1][1] < 46_000
    assert all(last - first <= 30 * rate for first, last in pieces)


def test_files_of_any_rate_width_and_channels_are_read(recognizer, tmp_path):
    audio = speech(2.0)
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    stereo = np.stack([audio, audio], axis=1)
    soundfile.write(tmp_path / "b.wav", stereo, 16000, subtype="FLOAT")
    paths = [tmp_path / "a.wav", str(tmp_path / "b.wav")]
    array, mono, both = (
        recognizer(given, sample_rate=16000)[0] for given in (audio, *paths)
    )
    assert array == mono == both
    (wide,) = recognizer(np.repeat(audio, 2), sample_rate=32000)
    assert len(wide.tokens) == pytest.approx(len(array.tokens), abs=3)
    integers = (audio * 32768).astype(np.int16)
    (whole,) = recognizer(integers, sample_rate=16000)
    assert len(whole.tokens) == pytest.approx(len(array.tokens), abs=1)


def test_tail_and_early_eos_are_set_for_one_call_only(recognizer):
    audio = speech(2.0)
    before = recognizer(audio, sample_rate=16000)
    recognizer(audio, sample_rate=16000, tail=1.0, early_eos=True)
    decoder = recognizer.model.decoder
    assert (decoder.tail, decoder.early_eos) == (0.5, False)
    assert recognizer(audio, sample_rate=16000) == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beam": 0}, "beam"),
        ({"beam": "10"}, "beam"),
        ({"beam": 2.5}, "beam"),
        ({"batch_seconds": 0}, "batch_seconds"),
        ({"batch_seconds": float("nan")}, "batch_seconds"),
        ({"tail": "4e-1"}, "tail"),
        ({"ctc_weight": float("nan")}, "ctc_weight"),
        ({"nbest": 11}, "nbest"),
        ({"ctc_weight": 1.0}, "ctc_weight"),
        ({"tail": 2.0}, "tail"),
        ({"early_eos": "no"}, "early_eos"),
        ({"lm_weight": -1.0}, "lm_weight"),
        ({"ngram_weight": "0.3"}, "ngram_weight"),
    ],
)
def test_a_wrong_option_is_named(recognizer, options, named):
    with pytest.raises(ConfigError, match=named):
        recognizer(speech(1.0), sample_rate=16000, **options)


def test_more_hypotheses_than_there_can_be_are_those_there_are(recognizer):
    for samples in (speech(1.0)[:3000], np.zeros(2000)):
        (ranked,) = recognizer(samples, sample_rate=16000, beam=1000, nbest=1000)
        assert 1 <= len(ranked) < 1000
        assert all(np.isfinite(transcript.score) for transcript in ranked)
    assert recognizer(np.zeros(0), sample_rate=16000, nbest=3) == [[("", 0.0, [], [])]]


def test_minutes_of_silence_are_decoded(recognizer):
    (transcript,) = recognizer(np.zeros(61 * 16000), sample_rate=16000, beam=1)
    assert np.isfinite(transcript.score)


def test_a_file_that_is_missing_is_named_before_any_other_is_decoded(
    recognizer, tmp_path, monkeypatch
):
    soundfile.write(tmp_path / "one.wav", speech(1.0), 16000)
    monkeypatch.setattr(recognizer, "_encode", lambda *args: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"gone\.wav"):
        recognizer([tmp_path / "one.wav", speech(1.0), tmp_path / "gone.wav"])


def test_bad_audio_is_named(recognizer, tmp_path):
    with pytest.raises(DataError, match="sample rate"):
        recognizer(speech(1.0))
    with pytest.raises(DataError, match=r"no audio file .*missing\.wav"):
        recognizer(tmp_path / "missing.wav")
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(DataError, match=r"text\.wav cannot be read"):
        recognizer(tmp_path / "text.wav")
    with pytest.raises(DataError, match="not numbers"):
        recognizer(np.full(16000, np.nan, np.float32), sample_rate=16000)


def test_ctc_weight_without_ctc_is_refused(tmp_path):
    exp = write_experiment(tmp_path / "exp", model_conf={"ctc_weight": 0.0})
    plain = espnet_hkd.from_pretrained(exp)
    assert plain(speech(1.0), sample_rate=16000)[0].tokens
    with pytest.raises(SearchError, match="no CTC"):
        plain(speech(1.0), sample_rate=16000, ctc_weight=0.3)


def test_half_precision_file_decodes_the_same_text(tmp_path, recipe, recognizer):
    slim(recipe / "exp" / "asr_hkd", out=tmp_path / "half", dtype="float16")
    half = espnet_hkd.from_pretrained(tmp_path / "half")
    assert (tmp_path / "half" / "train.total_count.ave.pth").stat().st_size < 0.6 * (
        recipe / "exp" / "asr_hkd" / "train.total_count.ave.pth"
    ).stat().st_size
    (full,) = recognizer(speech(2.0), sample_rate=16000)
    (lowered,) = half(speech(2.0), sample_rate=16000, ctc_weight=0.3)
    assert len(lowered.tokens) == len(full.tokens)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("- 3", "cannot be read"),
        ("ctc_weight: 3e-1", "1.0e-3"),
    ],
    ids=["missing", "a list", "a number as text"],
)
def test_slim_names_a_decoding_configuration_that_is_none(tmp_path, content, said):
    exp = write_experiment(tmp_path / "exp")
    if content is not None:
        (tmp_path / "decode.yaml").write_text(content)
    with pytest.raises(ConfigError, match=rf"decode\.yaml(.|\n)*{said}"):
        slim(exp, inference_config=tmp_path / "decode.yaml")
    assert not (exp / "slim").exists()


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_slim_on_a_full_disk_leaves_the_old_model(tmp_path, monkeypatch, kind):
    exp = write_experiment(tmp_path / "exp")
    slim(exp)
    before = {path: path.read_bytes() for path in (exp / "slim").iterdir()}

    def save(weights, path):
        path.write_bytes(b"half")
        raise kind("No space left on device")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(CheckpointError, match=r"cannot be written(.|\n)*No space"):
        slim(exp)
    assert {path: path.read_bytes() for path in (exp / "slim").iterdir()} == before


@pytest.mark.parametrize("name", ["config.yaml", "train.total_count.ave.pth"])
def test_slim_names_what_is_missing(tmp_path, name):
    exp = write_experiment(tmp_path / "exp")
    (exp / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        slim(exp)
    assert not (exp / "slim").exists()


def test_a_firing_plot_shows_what_the_weights_say_whatever_is_searched(tmp_path):
    plain = espnet_hkd.from_pretrained(str(write_experiment(tmp_path / "plain")))
    conf = {"attention_heads": 2, "linear_units": 32, "initial_weight": 0.2}
    conf |= {"count_search": 2, "count_penalty": 0.0}
    exp = write_experiment(tmp_path / "searching", decoder_conf=conf)
    searching = espnet_hkd.from_pretrained(str(exp))
    for seed in range(4):
        samples = speech(2.0, seed=seed)
        fired = searching.firing(samples, sample_rate=16000)
        assert len(fired.symbols) == len(fired.ends)
        assert fired.symbols == plain.firing(samples, sample_rate=16000).symbols
    assert searching.model.decoder.count_search == 2
    # The search finds others, or there would be nothing to tell apart.
    texts = [
        [model(speech(2.0, seed=i), sample_rate=16000)[0].text for i in range(4)]
        for model in (plain, searching)
    ]
    assert texts[0] != texts[1]


def test_slim_remembers_the_loss_of_pronunciations_and_not_its_file(tmp_path):
    lexicon = tmp_path / "lexicon.txt"
    letters = [token for token in VOCAB if not token.startswith("<")]
    lexicon.write_text("".join(f"{letter} {letter}\n" for letter in letters))
    encoder = {"output_size": SIZE, "attention_heads": 2, "linear_units": 32}
    encoder |= {"num_blocks": 2, "cnn_module_kernel": 5, "interctc_layer_idx": [1]}
    model = {"lexicon": str(lexicon)}
    exp = write_experiment(tmp_path / "exp", encoder_conf=encoder, model_conf=model)
    assert "lexicon_ctc.linear.weight" in slim(exp)[-1]
    lexicon.unlink()
    text = (exp / "slim" / "config.yaml").read_text()
    assert str(lexicon) not in text
    assert yaml.safe_load(text)["taught_with"] == {"lexicon_weight": 0.5}
    # It loads without the file.
    recognizer = espnet_hkd.from_pretrained(str(exp / "slim"))
    assert recognizer.model.lexicon_ctc is None


@pytest.mark.parametrize("device", ["cuda:97", "toaster"])
def test_a_device_that_is_not_there_is_named(tmp_path, device):
    exp = write_experiment(tmp_path / "exp")
    with pytest.raises(ConfigError, match=f"{device}(.|\n)*remedy"):
        espnet_hkd.from_pretrained(str(exp), device=device)


def test_examples_of_the_readme_and_of_docstrings_run(recipe, monkeypatch, capsys):
    import doctest

    from espnet_hkd.recognize import recognizer as module

    monkeypatch.chdir(recipe)
    for name in ("speech.wav", "one.wav", "two.flac"):
        soundfile.write(name, speech(2.0), 16000)
    for each in (espnet_hkd, module):
        result = doctest.testmod(each, extraglobs={"espnet_hkd": espnet_hkd})
        assert result.attempted >= 2
        assert result.failed == 0
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    (named,) = re.findall(r'"(egs2/[^"]*\.zip)"', block)
    assert (REPOSITORY / named).is_file()
    # What it hears in noise is not worth a test; the random model says more.
    code = block.replace(named, "model.zip")
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) > 2


def test_command_line_prints_every_format_and_a_plot(recipe, tmp_path):
    from espnet_hkd.bin.recognize import main

    soundfile.write(tmp_path / "one.wav", speech(2.0), 16000)
    main(
        [
            str(recipe / "model.zip"),
            str(tmp_path / "one.wav"),
            "--format",
            "json",
            "--plot",
            str(tmp_path / "plots" / "one.png"),
        ]
    )
    assert (tmp_path / "plots" / "one.png").stat().st_size > 5000


def test_command_line_ends_in_one_message_for_bad_input(recipe):
    command = [sys.executable, "-m", "espnet_hkd.bin.recognize", "none.zip", "a.wav"]
    result = subprocess.run(
        command, capture_output=True, text=True, env=os.environ, check=False
    )
    assert result.returncode != 0
    assert "there is no model none.zip" in result.stderr
    assert "Traceback" not in result.stderr
