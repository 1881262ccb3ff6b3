"""Recordings in any number: in order, in bounded memory, bad ones named."""

from __future__ import annotations

import io
import json
import re
import sys
import weakref

import numpy as np
import pytest
import soundfile
import torch

import espnet_hkd
from espnet_hkd.bin.recognize import main
from espnet_hkd.errors import CheckpointError, ConfigError, DataError, HKDError
from espnet_hkd.recognize.stream import join, transcribe
from espnet_hkd.speech.audio import Piece
from espnet_hkd.speech.records import TokenTime, Transcript, WordTime
from tests.small_models import SIZE, speech, write_experiment

RATE = 16000


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("exp"))


@pytest.fixture(scope="module")
def recognizer(exp):
    return espnet_hkd.from_pretrained(exp)


def said(text):
    return [Transcript(text, -1.0, [], [])]


def read(audio):
    """Recordings of the unit tests: lengths of pieces in seconds, or an error."""
    first = 0
    for seconds in audio:
        if isinstance(seconds, HKDError):
            raise seconds
        yield Piece(first, np.full(int(seconds * 10), first, np.float32))
        first += int(seconds * 10)


def decode(pieces):
    return [said(str(piece.first)) for piece in pieces]


def run(recordings, *, batch_seconds=1.0, decode=decode):
    return transcribe(
        recordings, read, decode, sample_rate=10, batch_seconds=batch_seconds
    )


def test_pieces_are_joined_and_recordings_keep_their_order():
    recordings = [[2.0, 3.0, 4.0], [0.5], [], [1.0]]
    recordings[2] = [0.0]
    for batch_seconds in (0.1, 1.0, 100.0):
        found = list(run(recordings, batch_seconds=batch_seconds))
        assert [number for number, _ in found] == [0, 1, 2, 3]
        assert [ranked[0].text for _, ranked in found] == ["0 20 50", "0", "0", "0"]


def test_a_bad_recording_is_its_error_and_the_rest_goes_on():
    bad = DataError("torn", got="1", wanted="2", remedy="3")
    found = list(run([[1.0], [1.0, bad], [1.0, 9.0, bad], [2.0]]))
    assert [number for number, _ in found] == [0, 1, 2, 3]
    assert [each is bad for _, each in found] == [False, True, True, False]


def test_what_needs_no_decoding_comes_out_at_once():
    bad = DataError("torn", got="1", wanted="2", remedy="3")
    taken = []

    def recordings():
        for number, each in enumerate([[bad], [0.5], [3.5], [bad], [1.0]]):
            taken.append(number)
            yield each

    found = [(number, len(taken)) for number, _ in run(recordings())]
    # The second and the third are decoded together, when these are enough.
    assert found == [(0, 1), (1, 3), (2, 3), (3, 4), (4, 5)]


def test_no_more_is_read_than_a_few_batches_ahead():
    taken = []

    def recordings():
        for number in range(100):
            taken.append(number)
            yield [0.5]

    for number, _ in run(recordings(), batch_seconds=1.0):
        assert len(taken) <= number + 9


def test_audio_is_let_go_once_it_is_decoded():
    watched = []

    def read_watched(audio):
        for place in range(audio):
            samples = np.zeros(10, np.float32)
            watched.append(weakref.ref(samples))
            yield Piece(10 * place, samples)

    most = []

    def decode_watched(pieces):
        most.append(sum(each() is not None for each in watched))
        return decode(pieces)

    list(
        transcribe(
            [40, 40], read_watched, decode_watched, sample_rate=10, batch_seconds=1.0
        )
    )
    assert len(watched) == 80
    assert 4 <= max(most) <= 6


def test_many_empty_recordings_are_decoded_in_turn():
    sizes = []
    list(run([[0.0]] * 500, decode=lambda p: sizes.append(len(p)) or decode(p)))
    assert max(sizes) <= 40


def test_joined_transcripts_add_scores_and_keep_chinese_together():
    token, word = TokenTime("A", 0.0, 1.0, 0.5), WordTime("A", 0.0, 1.0, 0.5)
    pieces = [
        [Transcript("今天", -1.0, [token], [word]), Transcript("今", -2.0, [], [])],
        [Transcript("", -0.5, [], [])],
        [Transcript("好", -1.0, [token], [word])],
        [Transcript("OK", -1.0, [], [])],
    ]
    (joined,) = join(pieces)
    assert joined == Transcript("今天好 OK", -3.5, [token] * 2, [word] * 2)


def test_stream_gives_what_a_list_gives(recognizer, tmp_path):
    soundfile.write(tmp_path / "one.wav", speech(1.0), RATE)
    recordings = [tmp_path / "one.wav", speech(2.0), tmp_path / "gone.wav", b"RIFF"]
    recordings.append((tmp_path / "one.wav").read_bytes())
    found = list(recognizer.stream(iter(recordings), sample_rate=RATE, beam=3))
    assert [number for number, _ in found] == list(range(5))
    results = [result for _, result in found]
    assert results[:2] == recognizer(recordings[:2], sample_rate=RATE, beam=3)
    assert [isinstance(r, DataError) for r in results] == [False] * 2 + [True] * 2 + [
        False
    ]
    assert results[4] == results[0]
    with pytest.raises(DataError, match=r"gone\.wav"):
        recognizer(recordings, sample_rate=RATE)
    with pytest.raises(ConfigError, match="beam"):
        recognizer.stream([], beam=0)


def test_a_list_of_numbers_is_one_recording(recognizer):
    samples = (speech(1.0) * 2**15).astype(int)
    (expected,) = recognizer(samples, sample_rate=RATE)
    for given in (samples.tolist(), tuple(samples), [samples.tolist()]):
        assert recognizer(given, sample_rate=RATE) == [expected]
    assert recognizer([]) == []


def test_words_of_characters_are_those_of_the_text(recognizer):
    for seed in range(3):
        (transcript,) = recognizer(speech(2.0, seed=seed), sample_rate=RATE)
        words = [word.word for word in transcript.words]
        # Without a symbol for the space all letters are one word.
        assert "".join(words) == transcript.text
        assert transcript.words[0].start == transcript.tokens[0].start
        assert transcript.words[-1].end == transcript.tokens[-1].end


POOLED = {
    "encoder": "hkd_pooled_conformer",
    "encoder_conf": {
        "output_size": SIZE,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 2,
        "pool_after": [1],
    },
}


SHORTENED = {"preencoder": "hkd_short_pauses", "preencoder_conf": {"input_size": 80}}

# Its feed-forward layers are convolutions that see padding.
CONVOLVED = {
    "encoder_conf": {
        "output_size": SIZE,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 2,
        "positionwise_layer_type": "conv1d",
    }
}


@pytest.mark.parametrize(
    ("changes", "largest"),
    [({}, 4), (POOLED, 4), (CONVOLVED, 2), (SHORTENED, 4)],
    ids=["conformer", "pooled", "conformer with convolutions", "pauses shortened"],
)
def test_batch_mates_do_not_change_what_is_encoded(
    tmp_path, changes, largest, monkeypatch
):
    model = espnet_hkd.from_pretrained(write_experiment(tmp_path, **changes))
    seconds = (2.0, 1.0, 2.0, 0.9, 0.05, 0.3)
    audio = [speech(s, seed=i) for i, s in enumerate(seconds)]
    encode = model._encode
    alone = [encode([samples], 60.0)[0] for samples in audio]
    sizes = []
    forward = model.model.encoder.forward
    monkeypatch.setattr(
        model.model.encoder,
        "forward",
        lambda feats, *args: sizes.append(len(feats)) or forward(feats, *args),
    )
    for batch_seconds in (0.1, 4.5, 60.0):
        sizes.clear()
        together = encode(audio, batch_seconds)
        for one, other in zip(alone, together, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    # Where padding changes something, only those of one length are encoded together.
    assert max(sizes) == largest


def test_a_model_of_features_is_refused_before_anything_is_computed(tmp_path):
    exp = write_experiment(tmp_path, frontend=None, frontend_conf={}, input_size=80)
    with pytest.raises(ConfigError, match="of features, not of audio"):
        espnet_hkd.from_pretrained(exp)


def test_a_rate_of_16k_is_understood_of_every_frontend(tmp_path):
    frontend = {"fs": "16k", "win_length": 400, "hop_length": 160}
    exp = write_experiment(
        tmp_path,
        frontend="sliding_window",
        frontend_conf=frontend,
        normalize=None,
        preencoder="sinc",
        preencoder_conf={"fs": RATE, "in_channels": 1},
    )
    model = espnet_hkd.from_pretrained(exp)
    assert model.sample_rate == RATE
    assert model(speech(1.0), sample_rate=RATE)[0].tokens


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path):
    exp = write_experiment(tmp_path)
    path = exp / "train.total_count.ave.pth"
    weights = torch.load(path, weights_only=True)
    weights["decoder.norm_out.weight"][3] = torch.nan
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match=r"decoder\.norm_out\.weight"):
        espnet_hkd.from_pretrained(exp)


@pytest.fixture
def folder(tmp_path):
    """Two recordings of one name, and one that is none."""
    for place, seconds in (("a/rec.wav", 2.0), ("b/rec.wav", 2.5)):
        (tmp_path / place).parent.mkdir()
        soundfile.write(tmp_path / place, speech(seconds), RATE)
    return tmp_path


def test_command_line_names_files_and_ends_with_status_one(exp, folder, capsys):
    (folder / "b" / "torn.wav").write_bytes(b"RIFF")
    (folder / "b" / "phone.M4A").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0")
    with pytest.raises(SystemExit) as end:
        main([str(exp), str(folder), "--format", "json", "--beam", "2"])
    assert end.value.code == 1
    out, err = capsys.readouterr()
    names = [json.loads(line)["audio"] for line in out.splitlines()]
    assert names == [str(folder / "a/rec.wav"), str(folder / "b/rec.wav")]
    assert "torn.wav cannot be read" in err
    assert re.search(r"phone\.M4A cannot be read(.|\n)*ffmpeg -i .*phone\.M4A", err)


@pytest.mark.parametrize("form", ["ctm", "srt", "textgrid"])
def test_command_line_writes_a_file_for_each_recording(exp, folder, form, capsys):
    out = folder / "out"
    main([str(exp), str(folder), "--format", form, "--out", str(out), "--beam", "1"])
    ending = "TextGrid" if form == "textgrid" else form
    assert sorted(path.name for path in out.iterdir()) == [
        f"a_rec.{ending}",
        f"b_rec.{ending}",
    ]
    assert all(path.stat().st_size > 20 for path in out.iterdir())
    assert capsys.readouterr().out == ""


def test_command_line_reads_tables_and_lists(exp, folder, capsys, monkeypatch):
    (folder / "wav.scp").write_text(f"utt1 {folder}/a/rec.wav\nutt2 {folder}/b/rec.wav")
    main([str(exp), str(folder / "wav.scp"), "--beam", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["utt1", "utt2"]
    listed = io.TextIOWrapper(io.BytesIO(f"{folder}/b/rec.wav\n\n".encode()))
    monkeypatch.setattr(sys, "stdin", listed)
    main([str(exp), "-", "--beam", "1"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split()[1:] == lines[1].split()[1:]
    main([str(exp), str(folder), "--format", "srt", "--beam", "1"])
    heads = [x for x in capsys.readouterr().out.splitlines() if x.startswith("==>")]
    assert heads == [f"==> {folder}/{x}/rec.wav <==" for x in "ab"]


def test_recordings_of_one_name_never_overwrite_each_other(exp, folder, capsys):
    soundfile.write(folder / "a_rec.wav", speech(1.0), RATE)
    names = ("a/rec.wav", "b/rec.wav", "a_rec.wav")
    for scp, wave in (("1.scp", "a/rec.wav"), ("2.scp", "b/rec.wav")):
        (folder / scp).write_text(f"utt {folder / wave}")
    given = [str(folder / name) for name in (*names, "1.scp", "2.scp")]
    out = folder / "out"
    main([str(exp), *given, "--format", "ctm", "--out", str(out), "--beam", "1"])
    stems = ["a_rec", "a_rec#2", "b_rec", "utt", "utt#2"]
    assert sorted(path.stem for path in out.iterdir()) == stems
    main([str(exp), *given[3:], "--format", "ctm", "--beam", "1"])
    rows = capsys.readouterr().out.splitlines()
    assert list(dict.fromkeys(row.split()[0] for row in rows)) == ["utt", "utt#2"]
    assert rows == [row for s in stems[3:] for row in lines_of(out / f"{s}.ctm")]


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_command_line_writes_what_a_terminal_of_ascii_can_show(
    exp, folder, monkeypatch
):
    path = (folder / "a" / "rec.wav").rename(folder / "\u4f60.wav")
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    main([str(exp), str(path), "--beam", "1"])
    shown.seek(0)
    assert shown.read().startswith(f"{folder}/\\u4f60.wav ")


def test_command_line_shows_progress_on_a_terminal_only(
    exp, folder, capsys, monkeypatch
):
    main([str(exp), str(folder), "--beam", "1"])
    assert "file" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main([str(exp), str(folder), "--beam", "1"])
    out, err = capsys.readouterr()
    assert "| 0/2 [" in err and "| 2/2 [" in err
    assert "/2" not in out


def test_command_line_refuses_an_empty_list(exp, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n\n")))
    with pytest.raises(SystemExit) as end:
        main([str(exp), "-"])
    assert "no file in the list" in str(end.value.code)


@pytest.mark.parametrize(
    ("given", "said"), [(["-", "a.wav"], "beside other files"), (["."], "no audio in")]
)
def test_command_line_refuses_inputs_that_are_none(
    exp, tmp_path, given, said, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main([str(exp), *given])
    assert said in str(end.value.code)
