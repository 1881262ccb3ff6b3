"""ARCTIC's sets from its layouts, speech by flite, and a word where something lacks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_hkd.errors import DataError, PLMError
from espnet_hkd.files import read_table
from tests.recipe_material import (
    ANY_ROOM,
    REPOSITORY,
    load_program,
    make_kaldi_an4,
    make_recipe,
    run,
    write_audio,
)
from tests.small_models import speech, write_experiment
from tests.teacher_material import save_bert, save_gpt

pytestmark = pytest.mark.slow

RECIPE = REPOSITORY / "egs2" / "arctic_hkd" / "asr1"
SETS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def local():
    """The recipe's programs, which import one another."""
    sys.path.insert(0, str(RECIPE / "local"))
    yield {
        name: load_program(RECIPE / "local" / f"{name}.py")
        for name in (
            *("prepare_arctic", "speak_flite", "phones", "extra_text"),
            *("vectors_and_spikes", "ask_teacher", "true_count"),
        )
    }
    sys.path.remove(str(RECIPE / "local"))


PROMPTS = [f'Sentence {word}, "etc."' for word in "abcdefghij"]


def make_reader(folder: Path, prompts: list[str]) -> Path:
    (folder / "etc").mkdir(parents=True)
    lines = []
    for number, prompt in enumerate(prompts, start=1):
        id = f"arctic_a{number:04d}"
        lines.append(f'( {id} "{prompt}" )\n')
        write_audio(folder / "wav" / f"{id}.wav")
    (folder / "etc" / "txt.done.data").write_text("".join(lines))
    return folder


def make_flite(folder: Path, voices: str = "kal slt rms awb") -> Path:
    """A program that writes a sound and phones instead of speaking."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "flite"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys, wave\n"
        "args = sys.argv[1:]\n"
        f"if '-lv' in args: sys.exit(print('Voices available: {voices}'))\n"
        "text, out = args[args.index('-t') + 1], args[args.index('-o') + 1]\n"
        "if '-ps' in args: print('pau', *text.replace(' ', ''), 'pau')\n"
        "if out != 'none':\n"
        "    with wave.open(out, 'wb') as file:\n"
        "        file.setparams((1, 2, 16000, 0, 'NONE', ''))\n"
        "        file.writeframes(bytes(range(200)) * 20)\n"
    )
    program.chmod(0o755)
    return folder


@pytest.fixture
def flite(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(make_flite(tmp_path / "bin")), prepend=":")


def test_kaldi_layout_gives_the_sets_with_whole_paths(tmp_path, local):
    corpus = make_kaldi_an4(tmp_path / "arctic", SETS)
    for name in SETS:
        path = corpus / name / "text"
        path.write_text(path.read_text().replace("GO", f"{name.upper()} GO"))
    local["prepare_arctic"].prepare(corpus, tmp_path / "data")
    assert read_table(tmp_path / "data" / "dev" / "wav.scp") == {
        f"spk-dev-{n}": f"{corpus}/audio/spk-dev-{n}.flac" for n in (1, 2)
    }


def test_kaldi_sets_that_share_a_sentence_are_refused(tmp_path, local):
    corpus = make_kaldi_an4(tmp_path / "arctic", SETS)
    path = corpus / "test" / "text"
    path.write_text("spk-test-1 GO spk-train-1\nspk-test-2 OTHER\n")
    with pytest.raises(DataError, match="train and test share a sentence"):
        local["prepare_arctic"].prepare(corpus, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_readers_of_the_same_prompts_are_split_by_sentence(tmp_path, local):
    for name in ("slt", "bdl"):
        make_reader(tmp_path / f"cmu_us_{name}_arctic", PROMPTS)
    sets, _ = local["prepare_arctic"].prepare(
        tmp_path, tmp_path / "data", ndev=2, ntest=3
    )
    texts = {name: {each.text for each in found} for name, found in sets.items()}
    assert {name: len(found) for name, found in sets.items()} == {
        "train": 10,
        "dev": 4,
        "test": 6,
    }
    assert len(set.union(*texts.values())) == sum(map(len, texts.values())) == 10
    # One reader alone has the same sets.
    alone, _ = local["prepare_arctic"].prepare(
        tmp_path / "cmu_us_slt_arctic", tmp_path / "alone", ndev=2, ntest=3
    )
    assert {
        name: {each.text for each in found} for name, found in alone.items()
    } == texts


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Philip Steels, etc.", "PHILIP STEELS ET CETERA"),
        ("'Don't!' -- he said.", "DON'T HE SAID"),
        ("The dogs\u2019 well-known howl", "THE DOGS WELL KNOWN HOWL"),
        ("In 1908 he came.", None),
        ("Caf\u00e9 noir", None),
        ("...", None),
    ],
)
def test_prompts_become_transcripts(local, written, spoken):
    assert local["prepare_arctic"].spoken_form(written) == spoken


def test_prompts_with_digits_are_left_out_and_named(tmp_path, local):
    make_reader(tmp_path / "rms", [*PROMPTS, "In 1908."])
    _, left_out = local["prepare_arctic"].prepare(
        tmp_path, tmp_path / "data", ndev=1, ntest=1
    )
    assert left_out == ["arctic_a0011"]


def without_audio(corpus: Path) -> None:
    make_reader(corpus / "slt", PROMPTS)
    (corpus / "slt" / "wav" / "arctic_a0003.wav").unlink()


def without_quotes(corpus: Path) -> None:
    make_reader(corpus / "slt", PROMPTS)
    (corpus / "slt" / "etc" / "txt.done.data").write_text("( arctic_a0001 Words )\n")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda corpus: None, "does not exist"),
        (lambda corpus: corpus.mkdir(), "not laid out like ARCTIC"),
        (lambda corpus: make_reader(corpus, PROMPTS[:2]), "take all 2 sentences"),
        (without_audio, "1 prompts of .* have no audio"),
        (without_quotes, "no ARCTIC prompt"),
    ],
    ids=["absent", "empty", "small", "no_audio", "no_quotes"],
)
def test_a_corpus_that_is_not_whole_is_named(tmp_path, local, make, named):
    make(tmp_path / "arctic")
    with pytest.raises(DataError, match=named):
        local["prepare_arctic"].prepare(
            tmp_path / "arctic", tmp_path / "data", ndev=1, ntest=1
        )


def test_without_a_corpus_the_recipe_says_where_there_is_one(tmp_path):
    recipe = make_recipe(tmp_path / "recipe", RECIPE)
    options = ("--plm", "none", "--stop_stage", "1", *ANY_ROOM)
    done = run(recipe / "run.sh", *options, ARCTIC=None)
    assert done.returncode != 0
    assert "festvox.org/cmu_arctic" in done.stdout + done.stderr


def test_spoken_sentences_need_a_text(tmp_path):
    recipe = make_recipe(tmp_path / "recipe", RECIPE)
    done = run(recipe / "run.sh", "--spoken", "5", *ANY_ROOM)
    assert done.returncode != 0 and "--spoken_text FILE" in done.stderr


@pytest.fixture
def data(tmp_path, local):
    make_reader(tmp_path / "slt", PROMPTS)
    local["prepare_arctic"].prepare(
        tmp_path / "slt", tmp_path / "data", ndev=1, ntest=1
    )
    return tmp_path / "data"


def speak(local, data, text: str, *options: str) -> None:
    path = data / "sentences"
    path.write_text(text)
    local["speak_flite"].main(
        [str(data), "--text", str(path), "--audio", str(data / "spoken"), *options]
    )


SENTENCES = "He went home.\nIn 1908 he came.\nHe\n" + "".join(
    f"The {word} sat there.\n" for word in ("cat", "dog", "hen", "cow")
)


def test_spoken_sentences_join_the_training_set_only(data, local, flite, capsys):
    before = {name: (data / name / "text").read_text() for name in SETS}
    held = read_table(data / "test" / "text").popitem()[1]
    speak(local, data, SENTENCES + held + "\n", "--number", "4")
    text = read_table(data / "train" / "text")
    made = {id: words for id, words in text.items() if id.startswith("flite_")}
    assert len(made) == 4 and held not in made.values()
    assert len(text) == 4 + len(before["train"].splitlines())
    for name in ("dev", "test"):
        assert (data / name / "text").read_text() == before[name]
    speakers = read_table(data / "train" / "utt2spk")
    assert {speakers[id] for id in made} <= {"flite_slt", "flite_rms", "flite_awb"}
    path = read_table(data / "train" / "wav.scp")[next(iter(made))]
    assert soundfile.info(path).samplerate == 16000
    assert (
        "1 (other characters), 1 (length), 1 (in the sets)" in capsys.readouterr().out
    )


def test_the_same_seed_speaks_the_same_and_another_does_not(local):
    draw = local["speak_flite"].draw
    texts = [f"S {n}" for n in range(30)]
    options = {"fastest": 0.8, "slowest": 1.1}
    assert draw(texts, 9, seed=1, **options) == draw(texts, 9, seed=1, **options)
    assert draw(texts, 9, seed=1, **options) != draw(texts, 9, seed=2, **options)


def test_too_few_sentences_are_counted_by_reason(data, local, flite):
    with pytest.raises(SystemExit, match="'other characters': 1"):
        speak(local, data, SENTENCES, "--number", "9")


def test_flite_is_demanded_by_name(data, local, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt-get install flite"):
        speak(local, data, SENTENCES, "--number", "2")
    with pytest.raises(SystemExit, match="apt-get install flite"):
        local["phones"].main([str(data / "dev" / "text"), str(tmp_path / "o")])
    make_flite(tmp_path, voices="kal")
    with pytest.raises(SystemExit, match="flite lacks voices"):
        speak(local, data, SENTENCES, "--number", "2")


def test_phones_stand_for_the_words_without_pauses(data, local, flite, tmp_path):
    (tmp_path / "text").write_text("u1 GO ON\nu2 A\n")
    local["phones"].convert(tmp_path / "text", tmp_path / "out" / "text", jobs=2)
    assert read_table(tmp_path / "out" / "text") == {"u1": "g o o n", "u2": "a"}


def test_extra_text_leaves_out_what_the_sets_hold(data, local, tmp_path):
    held = [read_table(data / name / "text").popitem()[1] for name in SETS]
    (tmp_path / "text").write_text(SENTENCES + "\n".join(held) + "\n")
    out = tmp_path / "extra" / "text"
    local["extra_text"].main([str(tmp_path / "text"), str(data), str(out)])
    assert out.read_text().splitlines() == [
        "HE WENT HOME",
        *(f"THE {word} SAT THERE" for word in ("CAT", "DOG", "HEN", "COW")),
    ]


def test_vectors_are_told_from_their_own_spikes(local):
    """A token's mass too much in frame 2 lets the next two vectors come too early."""
    distances = local["vectors_and_spikes"].distances
    spikes = np.array([1.0, 4.0, 7.0])
    right = np.array([0, 1, 0, 0, 1, 0, 0, 1, 0, 1], float)
    assert distances(right, spikes).tolist() == [0, 0, 0]
    early = np.array([0, 1, 1, 0, 1, 0, 0, 0, 0, 1], float)
    assert distances(early, spikes).tolist() == [0, -1, -1]


def test_with_the_true_count_as_many_tokens_come_as_the_transcript_has(local, tmp_path):
    import espnet_hkd

    recognizer = espnet_hkd.from_pretrained(write_experiment(tmp_path))
    texts = {"a": "ABCD", "b": "ABCDEFGHIJ"}
    audio = {}
    for seed, id in enumerate(texts):
        audio[id] = str(tmp_path / f"{id}.wav")
        soundfile.write(audio[id], speech(2.0, seed=seed), 16000)
    before = [recognizer(path)[0].text for path in audio.values()]
    rows = local["true_count"].measure(recognizer, audio, texts, beam=2)
    # A random model may say another token in the place of each end.
    assert rows["the transcript's"].tokens <= 2
    assert rows["their sum"].tokens > 4
    assert all(row.words == 2 and row.errors == 2 for row in rows.values())
    # Nothing of it stays.
    assert [recognizer(path)[0].text for path in audio.values()] == before


def test_a_language_model_chooses_among_hypotheses(local, tmp_path):
    """It prefers the shorter word; with weight 1 both choices turn."""
    ask = local["ask_teacher"]
    for rank, (texts, score) in enumerate(
        [(["KEEP IT", "GO HOMES"], "tensor(-2.)"), (["KE IT", "GO HOME"], "-2.5")], 1
    ):
        folder = tmp_path / "logdir" / "output.1" / f"{rank}best_recog"
        folder.mkdir(parents=True)
        (folder / "text").write_text(f"a {texts[0]}\nb {texts[1]}\n")
        (folder / "score").write_text(f"a {score}\nb {score}\n")
    choices = ask.read_choices(tmp_path)
    assert choices["b"] == ask.Choices(["GO HOMES", "GO HOME"], [-2.0, -2.5])
    references = {"a": "KEEP IT", "b": "GO HOME"}
    table = ask.choose(choices, references, lambda text: -len(text), [0.0, 1.0])
    assert table == ask.Table({0.0: 1, 1.0: 1}, 0, 2, 1, 4, 14.0)
    with pytest.raises(DataError, match="nbest 20"):
        ask.read_choices(tmp_path / "logdir")
    with pytest.raises(DataError, match="1 of 2, such as b"):
        ask.choose(choices, {"a": "KEEP IT"}, len, [0.0])


def test_a_text_has_the_probability_that_the_model_s_own_loss_says(local, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_gpt(tmp_path / "gpt", "Go home. Keep it.")
    scored = local["ask_teacher"].load_scorer(str(folder))("GO HOME")
    pieces = AutoTokenizer.from_pretrained(folder)("Go home.").input_ids
    ids = torch.tensor([[0, *pieces]])
    loss = AutoModelForCausalLM.from_pretrained(folder)(ids, labels=ids).loss
    assert scored == pytest.approx(-len(pieces) * loss.item(), rel=1e-5)


def test_an_encoder_cannot_choose(local, tmp_path):
    folder = save_bert(tmp_path / "bert", ["go", "home"])
    with pytest.raises(PLMError, match="no causal language model"):
        local["ask_teacher"].load_scorer(str(folder))
