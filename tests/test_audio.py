"""Audio of any kind becomes the model's, or an error that names what it is."""

from __future__ import annotations

import io
import itertools
import os
import struct
import tempfile

import numpy as np
import pytest
import soundfile
import torch

from espnet_hkd.errors import DataError
from espnet_hkd.speech.audio import (
    check_file,
    cut_at_silences,
    load_audio,
    read_pieces,
)
from espnet_hkd.speech.torn import measure
from tests.small_models import speech

RATE = 16000
TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(TONE, id="float64"),
        pytest.param(TONE.astype(np.float16), id="float16"),
        pytest.param((TONE * 2**15).astype(np.int16), id="int16"),
        pytest.param((TONE * 2**31).astype(np.int32), id="int32"),
        pytest.param((TONE * 2**23).astype(np.int32), id="24 bits in int32"),
        pytest.param((TONE * 2**15).astype(np.int32), id="16 bits in int32"),
        pytest.param((TONE * 2**15).astype(np.int64), id="16 bits in int64"),
        pytest.param((TONE * 2**31).astype(np.int64), id="32 bits in int64"),
        pytest.param((TONE * 2**15).astype(int).tolist(), id="list of integers"),
        pytest.param(TONE * 2**15, id="16 bits in floats"),
        pytest.param(np.stack([TONE, -TONE], 1), id="a channel turned over"),
        pytest.param(torch.from_numpy(TONE), id="tensor"),
        pytest.param(TONE.tolist(), id="list"),
        pytest.param(np.stack([TONE, TONE], axis=1), id="stereo"),
        pytest.param(TONE[:, None], id="one column"),
        pytest.param(np.asfortranarray(np.stack([TONE] * 2, 1)), id="fortran order"),
    ],
)
def test_arrays_of_every_kind_are_the_same_speech(given):
    samples = load_audio(given, RATE, RATE)
    assert samples.dtype == np.float32
    assert samples.shape == (RATE,)
    np.testing.assert_allclose(samples, TONE, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param((128 + 100 * TONE).astype(np.uint8), r"128\.0", id="uint8"),
        pytest.param(TONE > 0, "bool", id="bool"),
        pytest.param(TONE.astype(complex), "complex", id="complex"),
        pytest.param(np.stack([TONE, TONE]), r"array\.T", id="channels first"),
        pytest.param(TONE[None, None], r"\(1, 1, 16000\)", id="three axes"),
        pytest.param(np.float32(0.1), r"shape \(\)", id="a number"),
        pytest.param(None, "object(.|\n)*give a path", id="None"),
        pytest.param(b"one.wav", "the bytes cannot be read", id="bytes of none"),
        pytest.param(io.StringIO("x"), "file object cannot be read", id="text file"),
        pytest.param(np.array([2**40]), "no scale", id="integers beyond 32 bits"),
        pytest.param(np.array([1e19]), "no scale", id="floats beyond any scale"),
        pytest.param([[0.1], [0.1, 0.2]], "cannot be made", id="ragged"),
        pytest.param(torch.zeros(9).bfloat16(), r"float\(\)\.cpu", id="bfloat16"),
        pytest.param(np.array([0.0, np.nan]), "NaN", id="NaN"),
        pytest.param(np.array([0.0, -np.inf]), "inf", id="inf"),
        pytest.param(np.full(9, 1e300), "no scale", id="beyond float32"),
    ],
)
def test_what_is_no_audio_is_named(given, said):
    with pytest.raises(DataError, match=said) as caught:
        load_audio(given, RATE, RATE)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "rate", [None, 0, -16000, 1, 10**9, float("nan"), "16000", True], ids=repr
)
def test_an_array_needs_a_rate_that_can_be(rate):
    with pytest.raises(DataError, match=r"sample rate(.|\n)*sample_rate=16000"):
        load_audio(TONE, rate, RATE)


@pytest.mark.parametrize("given", [8000, 44100.0, np.int64(48000)], ids=repr)
def test_other_rates_are_resampled(given):
    seconds = np.arange(int(given)) / given
    samples = load_audio(0.5 * np.sin(2 * np.pi * 440 * seconds), given, RATE)
    assert len(samples) == pytest.approx(RATE, abs=2)
    middle = slice(RATE // 4, RATE // 2)
    np.testing.assert_allclose(samples[middle], TONE[middle], atol=0.01)


def test_what_a_lower_rate_costs_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("espnet_hkd.speech.audio._told", set())
    for name, rate in (("first", 8000), ("second", 8000), ("wide", 48000)):
        soundfile.write(tmp_path / f"{name}.wav", speech(0.1, rate=rate), rate)
        load_audio(tmp_path / f"{name}.wav", None, RATE)
    (message,) = caplog.messages
    assert "first.wav: The recording has 8000 samples a second" in message
    assert "16000" in message
    assert "above 4 kHz" in message


@pytest.mark.parametrize("rate", [8000, RATE])
@pytest.mark.parametrize("shape", [(0,), (0, 2)], ids=str)
def test_nothing_stays_nothing(shape, rate):
    assert load_audio(np.zeros(shape), rate, RATE).shape == (0,)


@pytest.mark.parametrize(
    ("subtype", "rate"), [("PCM_U8", 16000), ("PCM_24", 44100), ("FLOAT", 8000)]
)
def test_files_with_any_name_are_read(tmp_path, subtype, rate):
    path = tmp_path / "два слова 你好.wav"
    samples = speech(0.5, rate=rate)
    soundfile.write(path, np.stack([samples] * 2, axis=1), rate, subtype=subtype)
    check_file(path)
    assert len(load_audio(str(path), None, RATE)) == pytest.approx(RATE / 2, abs=2)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.wav", None, "no such file"),
        ("empty.wav", b"", "cannot be read(.|\n)*an empty file"),
        (
            "text.wav",
            b"not audio",
            r"cannot be read(.|\n)*got:\s+Format not",
        ),
        ("cut.flac", b"fLaC\0\0\0\x22", "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_named_with_its_path(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for look in (lambda p: load_audio(p, None, RATE), check_file):
        with pytest.raises(DataError, match=rf"{name}(.|\n)*{said}|{said}") as caught:
            look(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(DataError, match="a folder"):
        check_file(tmp_path)


@pytest.mark.parametrize("value", [0.0, 1.0], ids=["silence", "one loudness"])
@pytest.mark.parametrize("seconds", [30.0, 30.01, 61.3, 600.0])
def test_audio_without_any_pause_is_cut_all_the_same(value, seconds):
    samples = np.full(int(seconds * 1000), value, np.float32)
    pieces = cut_at_silences(samples, 1000, 30.0)
    assert pieces[0][0] == 0 and pieces[-1][1] == len(samples)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(pieces))
    assert all(0 < last - first <= 30_000 for first, last in pieces)


@pytest.mark.parametrize("rate", [1000, 8000])
@pytest.mark.parametrize("seconds", [0.0, 3.0, 31.0, 200.0])
def test_a_file_is_cut_in_the_same_places_piece_by_piece(tmp_path, seconds, rate):
    samples = speech(seconds, rate=1000)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    whole = load_audio(tmp_path / "a.wav", None, 1000)
    pieces = list(read_pieces(tmp_path / "a.wav", None, 1000, 7.0))
    cuts = [(p.first, p.first + len(p.samples)) for p in pieces]
    assert cuts == cut_at_silences(whole, 1000, 7.0)
    np.testing.assert_array_equal(np.concatenate([p.samples for p in pieces]), whole)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_bytes_and_file_objects_are_the_file(tmp_path, kind):
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, speech(0.5), RATE, format=kind)
    expected = load_audio(path, None, RATE)
    content = path.read_bytes()
    with path.open("rb") as file:
        for given in (content, bytearray(content), io.BytesIO(content), file):
            np.testing.assert_array_equal(load_audio(given, None, RATE), expected)


def test_a_name_in_another_encoding_is_read_and_shown(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + "/\u4f60\u597d.wav".encode("gbk"))
    soundfile.write(os.fsencode(path), TONE, RATE)
    assert len(load_audio(path, None, RATE)) == RATE
    os.truncate(path, 20)
    with pytest.raises(DataError) as caught:
        check_file(path)
    str(caught.value).encode("utf-8")


@pytest.mark.parametrize(
    "head",
    [b"\0\0\0\x20ftypM4A \0\0\0\0", b"\x1a\x45\xdf\xa3\x01\0\0\0webm"],
    ids=["m4a", "webm"],
)
@pytest.mark.parametrize("name", ["a.bin", "a.wav", "a.mp3"])
def test_formats_of_phones_and_browsers_are_refused_with_a_way_out(
    tmp_path, head, name
):
    (tmp_path / name).write_bytes(head + bytes(8000))
    with pytest.raises(DataError, match=rf"ffmpeg -i .*{name}") as caught:
        load_audio(tmp_path / name, None, RATE)
    # libsndfile says so of what is called MP3 and is none.
    assert "not exist" not in str(caught.value)


def rewritten(path, place, number):
    """The WAV file with a number of 32 bits at a place of its header."""
    soundfile.write(path, speech(1.0), RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[place : place + 4] = number.to_bytes(4, "little")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("rate", [1, 2_000_000_000])
def test_a_rate_that_nobody_records_at_is_refused(tmp_path, rate):
    with pytest.raises(DataError, match=f"{rate} samples a second"):
        load_audio(rewritten(tmp_path / "a.wav", 24, rate), None, RATE)


def ways_to_give(path):
    """The file's path, its bytes, and a file object."""
    return [path, path.read_bytes(), io.BytesIO(path.read_bytes())]


def test_a_header_of_no_samples_before_real_ones_is_refused(tmp_path):
    for given in ways_to_give(rewritten(tmp_path / "a.wav", 40, 0)):
        with pytest.raises(DataError, match="no samples, and 32000 bytes"):
            load_audio(given, None, RATE)


@pytest.mark.parametrize(
    "size",
    [0xFFFFFFFF, 0x7FFFFFFF - 36, 0x7FFFF000],
    ids=["ffmpeg", "36 bytes less", "sox and espeak-ng"],
)
def test_a_stream_written_to_a_pipe_is_read_whole(tmp_path, caplog, size):
    for given in ways_to_give(rewritten(tmp_path / "a.wav", 40, size)):
        assert len(load_audio(given, None, RATE)) == RATE
    assert not caplog.records


@pytest.mark.parametrize(
    "kind", ["WAV", "RF64", "W64", "AIFF", "AU", "NIST", "FLAC", "MP3", "OGG"]
)
def test_a_torn_file_says_how_much_was_read(tmp_path, caplog, kind):
    path = tmp_path / "a.bin"
    soundfile.write(path, speech(4.0), RATE, format=kind)
    whole = load_audio(path, None, RATE)
    assert not caplog.records
    os.truncate(path, path.stat().st_size // 2)
    check_file(path)
    assert not caplog.records
    for given in ways_to_give(path):
        caplog.clear()
        read = load_audio(given, None, RATE)
        # Formats that compress lose what of a block is there.
        assert 0.8 < len(read) / RATE < 2.1
        assert len(read) / RATE > 1.98 or kind in ("FLAC", "MP3", "OGG", "NIST")
        np.testing.assert_allclose(read, whole[: len(read)], atol=0.1)
        (said,) = caplog.messages
        # An Ogg stream does not say how long it was to be.
        of = "" if kind == "OGG" else " of the 4.00 s its header tells of"
        assert said.endswith(f"end is missing, {len(read) / RATE:.2f} s{of} were read")


def test_a_wave_with_other_chunks_around_its_samples_is_whole(tmp_path, caplog):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(1.0), RATE)
    chunk = b"junk\3\0\0\0abc\0"
    content = path.read_bytes()
    path.write_bytes(content[:12] + chunk + content[12:] + chunk)
    assert len(load_audio(path, None, RATE)) == RATE
    os.truncate(path, path.stat().st_size - len(chunk) - RATE)
    assert len(load_audio(path, None, RATE)) == RATE / 2
    assert "0.50 s of the 1.00 s" in caplog.text


@pytest.mark.parametrize("size", [0, 2**63 - 1, 2**64 - 1])
def test_a_chunk_of_an_impossible_size_says_nothing_of_the_length(tmp_path, size):
    path = tmp_path / "a.w64"
    soundfile.write(path, speech(1.0), RATE, format="W64")
    content = bytearray(path.read_bytes())
    # The size of the chunk before the samples.
    content[56:64] = struct.pack("<Q", size)
    with io.BytesIO(content) as file:
        assert measure(file) is None


def test_a_temporary_file_is_a_file(tmp_path):
    with tempfile.NamedTemporaryFile() as file:
        soundfile.write(file.name, TONE, RATE, format="WAV")
        file.seek(0, os.SEEK_END)
        with pytest.raises(DataError, match=r"at its end(.|\n)*seek\(0\)"):
            load_audio(file, None, RATE)
        file.seek(0)
        assert len(load_audio(file, None, RATE)) == RATE


def test_a_file_object_that_cannot_go_back_is_refused_without_a_fuss(capfd):
    closed = io.BytesIO(b"RIFF")
    closed.close()
    reading, writing = os.pipe()
    os.write(writing, b"RIFF")
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        for given in (closed, pipe):
            with pytest.raises(DataError, match=r"what its read\(\) returns"):
                load_audio(given, None, RATE)
    with pytest.raises(DataError, match="opened as text"):
        load_audio(io.StringIO("RIFF"), None, RATE)
    # libsndfile's callbacks would print what they meet.
    assert capfd.readouterr().err == ""


def test_a_pipe_with_a_name_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(DataError, match=r"a pipe(.|\n)*to a file first"):
        check_file(tmp_path / "a.wav")
