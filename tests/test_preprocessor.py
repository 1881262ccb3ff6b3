"""What ESPnet's data path gets of the teacher, utterance by utterance."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import sentencepiece
import torch
from espnet2.train.collate_fn import CommonCollateFn

from espnet_hkd.errors import (
    AlignmentError,
    ConfigError,
    DataError,
    MissingTeacherError,
    StoreError,
)
from espnet_hkd.preprocessor import HKDPreprocessor
from tests.teacher_material import SETTINGS, build_words, flip, train_bpe

TRANSCRIPTS = [
    "HELLO WORLD",
    "hello world",
    "<noise> HELLO",
    "你好 世界",
    "a😀 İs",
    "일 월",
]
WIDTH = SETTINGS.width


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    build_words(TRANSCRIPTS, folder)
    return str(folder)


@pytest.fixture(scope="module")
def bpemodel(tmp_path_factory):
    return str(train_bpe(tmp_path_factory.mktemp("bpe"), TRANSCRIPTS, size=60))


def make(token_type, *, bpemodel=None, unknown=(), train=True, **options):
    if token_type == "word":
        tokens = {word for text in TRANSCRIPTS for word in text.split()}
    elif token_type == "bpe":
        processor = sentencepiece.SentencePieceProcessor()
        processor.load(bpemodel)
        tokens = {processor.id_to_piece(n) for n in range(len(processor))}
    else:
        tokens = {"<space>", "<noise>", *(c for text in TRANSCRIPTS for c in text)}
    tokens -= {*unknown, "<unk>", "<s>", "</s>"}
    return HKDPreprocessor(
        train=train,
        token_type=token_type,
        token_list=["<blank>", "<unk>", *sorted(tokens), "<sos/eos>"],
        bpemodel=bpemodel,
        **options,
    )


def state(place: int, word: str) -> np.ndarray:
    """The state `read_words` gives a word, as the store keeps it."""
    values = [place + ord(word[0]) / 256 + e for e in range(WIDTH)]
    return np.array(values, np.float16).astype(np.float32)


END = np.full(WIDTH, -1, np.float32)


@pytest.mark.parametrize("text", ["HELLO WORLD", "hello world", "你好 世界", "a😀 İs"])
def test_characters_take_the_state_of_their_word(store, text):
    data = make("char", store=store)("u1", {"text": text})
    first, second = text.split()
    assert data["teacher_mask"].tolist() == [
        *[1] * len(first), 0, *[1] * len(second), 1
    ]  # fmt: skip
    wanted = [state(0, first)] * len(first) + [0 * END]
    wanted += [state(1, second)] * len(second) + [END]
    np.testing.assert_allclose(data["teacher"], np.stack(wanted))
    assert data["teacher"].dtype == np.float32
    assert data["teacher_mask"].dtype == np.int64
    assert len(data["teacher"]) == len(data["text"]) + 1


@pytest.mark.parametrize("text", ["HELLO WORLD", "hello world"])
def test_words_take_their_own_state(store, text):
    data = make("word", store=store)("u1", {"text": text})
    first, second = text.split()
    wanted = [state(0, first), state(1, second), END]
    np.testing.assert_allclose(data["teacher"], np.stack(wanted))
    assert data["teacher_mask"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("text", ["HELLO WORLD", "hello world", "你好 世界"])
def test_bpe_tokens_take_the_state_of_the_word_they_lie_in(store, bpemodel, text):
    data = make("bpe", bpemodel=bpemodel, store=store)("u1", {"text": text})
    processor = sentencepiece.SentencePieceProcessor()
    processor.load(bpemodel)
    place, wanted = -1, []
    for token in processor.encode(text, out_type=str):
        place += token.startswith("\u2581")
        alone = token == "\u2581"
        wanted.append(0 * END if alone else state(place, text.split()[place]))
    np.testing.assert_allclose(data["teacher"], np.stack([*wanted, END]))
    np.testing.assert_array_equal(
        data["teacher_mask"], [*(state.any() for state in wanted), 1]
    )


def test_unknown_tokens_are_left_out(store):
    data = make("word", store=store, unknown=["WORLD"])("u1", {"text": "HELLO WORLD"})
    assert data["teacher_mask"].tolist() == [1, 0, 1]
    assert not data["teacher"][1].any()


@pytest.mark.parametrize("token_type", ["char", "bpe"])
def test_symbols_are_left_out(store, bpemodel, token_type):
    options = {"bpemodel": bpemodel} if token_type == "bpe" else {}
    preprocessor = make(
        token_type, store=store, non_linguistic_symbols=["<noise>"], **options
    )
    data = preprocessor("u1", {"text": "<noise> HELLO"})
    tokens = preprocessor.token_id_converter.ids2tokens(data["text"])
    taught = [t for t, m in zip(tokens, data["teacher_mask"], strict=False) if m]
    assert "".join(taught).lstrip("\u2581") == "HELLO"
    assert "<noise>" in "".join(tokens)


def test_the_symbols_of_a_file_are_those_of_espnet(store, tmp_path):
    (tmp_path / "nlsyms.txt").write_text("<noise>\n\n")
    nlsyms = str(tmp_path / "nlsyms.txt")
    preprocessor = make("char", store=store, non_linguistic_symbols=nlsyms)
    mask = preprocessor("u1", {"text": "<noise> HELLO"})["teacher_mask"]
    assert mask.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


def test_white_space_as_it_came_makes_no_difference_to_the_teacher(store):
    even = make("word", store=store)("u1", {"text": "HELLO WORLD"})
    uneven = make("word", store=store)("u1", {"text": " HELLO \t WORLD\u3000"})
    np.testing.assert_array_equal(even["teacher"], uneven["teacher"])


def test_without_a_store_nothing_is_added():
    assert set(make("char")("u1", {"text": "HELLO WORLD"})) == {"text"}


def test_an_unknown_key_is_named_with_ours_and_espnets():
    with pytest.raises(ConfigError, match=r"preprocessor_conf: stroe") as caught:
        make("char", stroe="data/teacher")
    wanted = caught.value.wanted.split(", ")
    assert {"store", "missing_teacher", "rir_scp"} <= set(wanted)


def test_without_a_transcript_nothing_is_added_and_no_store_is_needed():
    preprocessor = make("char", store="no/such/store", train=False)
    data = preprocessor("u1", {"speech": np.zeros(80, np.float32)})
    assert set(data) == {"speech"}


def test_validation_gets_a_teacher_like_training(store):
    data = make("word", store=store, train=False)("u1", {"text": "HELLO WORLD"})
    assert set(data) == {"text", "teacher", "teacher_mask"}


def test_the_transcript_is_read_before_espnet_makes_numbers_of_it(store):
    speech = np.ones(80, np.float32)
    data = make("char", store=store)("u1", {"speech": speech, "text": "HELLO WORLD"})
    assert data["text"].dtype == np.int64
    assert set(data) == {"speech", "text", "teacher", "teacher_mask"}


def test_an_empty_transcript_has_an_untaught_end_of_sentence_only(store):
    for missing_teacher in ("error", "skip"):
        data = make("word", store=store, missing_teacher=missing_teacher)(
            "u1", {"text": ""}
        )
        assert data["teacher"].shape == (1, WIDTH)
        assert data["teacher_mask"].tolist() == [0]


def test_a_missing_teacher_names_utterance_transcript_and_command(store):
    with pytest.raises(MissingTeacherError) as caught:
        make("word", store=store)("utt-7", {"text": "GOOD BYE"})
    message = str(caught.value)
    assert "Utterance utt-7: " in message
    assert "'GOOD BYE'" in message
    assert "echo 'GOOD BYE' | espnet-hkd extract-teacher" in message


def test_a_missing_teacher_may_be_skipped_counted_and_logged(store, caplog):
    preprocessor = make("word", store=store, missing_teacher="skip")
    for number in range(12):
        data = preprocessor(f"u{number}", {"text": "GOOD BYE"})
        assert data["teacher"].shape == (0, WIDTH)
        assert data["teacher_mask"].shape == (0,)
        assert data["teacher_mask"].dtype == np.int64
    assert preprocessor.missing == 12
    assert [record.args[0] for record in caplog.records] == [1, 10]
    assert "u9" in caplog.text


def test_a_batch_with_and_without_teachers_is_collated(store):
    preprocessor = make("word", store=store, missing_teacher="skip")
    texts = ["HELLO WORLD", "GOOD BYE", ""]
    items = [(f"u{n}", preprocessor(f"u{n}", {"text": t})) for n, t in enumerate(texts)]
    _, batch = CommonCollateFn(float_pad_value=0.0, int_pad_value=-1)(items)
    assert batch["teacher"].shape == (3, 3, WIDTH)
    assert batch["teacher_lengths"].tolist() == [3, 0, 1]
    assert batch["teacher_mask"].tolist() == [[1, 1, 1], [-1, -1, -1], [0, -1, -1]]


class Dataset(torch.utils.data.Dataset):
    def __init__(self, preprocessor):
        self.preprocessor = preprocessor

    def __len__(self):
        return len(TRANSCRIPTS)

    def __getitem__(self, index):
        return self.preprocessor(f"u{index}", {"text": TRANSCRIPTS[index]})["teacher"]


def test_forked_workers_read_what_the_parent_reads(store):
    dataset = Dataset(make("char", store=store))
    here = [dataset[index] for index in range(len(dataset))]
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    for mine, theirs in zip(here, loader, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_an_open_store_does_not_travel_to_spawned_workers(store):
    preprocessor = make("char", store=store)
    here = preprocessor("u1", {"text": "HELLO WORLD"})
    there = pickle.loads(pickle.dumps(preprocessor))("u1", {"text": "HELLO WORLD"})
    np.testing.assert_array_equal(here["teacher"], there["teacher"])


def test_a_relative_store_is_relative_to_the_recipe(tmp_path, monkeypatch):
    build_words(TRANSCRIPTS, tmp_path / "data" / "teacher")
    preprocessor = make("word", store="data/teacher")
    with pytest.raises(StoreError, match="no teacher store in data/teacher"):
        preprocessor("u1", {"text": "HELLO WORLD"})
    monkeypatch.chdir(tmp_path)
    assert len(preprocessor("u1", {"text": "HELLO WORLD"})["teacher"]) == 3


def test_a_store_made_with_another_cleaner_is_refused(store, tmp_path):
    with pytest.raises(StoreError, match=r"another cleaner(.|\n)*korean_cleaner"):
        make("word", store=store, text_cleaner="korean_cleaner")("u1", {"text": "A"})
    cleaned = replace(SETTINGS, cleaner="korean_cleaner")
    build_words(["일 월"], tmp_path, settings=cleaned)
    preprocessor = make("word", store=str(tmp_path), text_cleaner=["korean_cleaner"])
    data = preprocessor("u1", {"text": "1  월"})
    np.testing.assert_allclose(data["teacher"][0], state(0, "일"))


def test_a_damaged_store_is_an_error_even_where_missing_ones_are_skipped(tmp_path):
    build_words(TRANSCRIPTS, tmp_path)
    flip(tmp_path / "shard-00000.safetensors", 3)
    with pytest.raises(StoreError, match="damaged"):
        make("word", store=str(tmp_path), missing_teacher="skip")("u1", {"text": "A"})


def test_a_transcript_of_numbers_has_no_teacher_to_be_found(store):
    with pytest.raises(DataError, match=r"transcript of u1 came as numbers"):
        make("word", store=store)("u1", {"text": np.array([2, 3])})


def test_tokens_that_a_prompt_changed_are_named(store):
    preprocessor = make("word", store=store)
    with pytest.raises(AlignmentError, match="Utterance u1"):
        preprocessor._teacher("u1", "HELLO WORLD", np.array([2, 3, 4]))


@pytest.mark.parametrize(
    ("token_type", "options", "said"),
    [
        ("char", {"missing_teacher": "ignore"}, "error or skip"),
        ("char", {"store": 3}, "not a folder name"),
        ("phn", {"store": "x"}, r"phn(.|\n)*char, bpe, word"),
    ],
    ids=["missing_teacher", "store", "token type"],
)
def test_a_wrong_value_in_the_configuration_is_named(token_type, options, said):
    with pytest.raises(ConfigError, match=said):
        make(token_type, **options)
