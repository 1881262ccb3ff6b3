"""The CTC loss of pronunciations on an inner layer of the encoder."""

import pytest
import torch

from espnet_hkd.errors import ConfigError
from espnet_hkd.nets.lexicon import LexiconCTC
from tests.small_models import SIZE, VOCAB, make_batch, make_model, make_small_encoder

TOKENS = ["<blank>", "<unk>", "NO", "ON", "NOON", "<sos/eos>"]
LINES = "NO n o\nON o n\n\nNOON n o n\n"


@pytest.fixture
def lexicon(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text(LINES, encoding="utf-8")
    return path


@pytest.fixture
def alphabet(tmp_path):
    """Each letter of the small models' vocabulary as itself."""
    path = tmp_path / "alphabet.txt"
    letters = [token for token in VOCAB if not token.startswith("<")]
    path.write_text("".join(f"{letter} {letter}\n" for letter in letters))
    return path


def head_for(path):
    torch.manual_seed(0)
    return LexiconCTC(path, TOKENS, SIZE).eval()


def test_loss_is_that_of_the_spelt_out_pronunciations(lexicon):
    head = head_for(lexicon)
    hidden = torch.randn(1, 12, SIZE)
    # NO NOON, whose symbols are n: 1 and o: 2.
    expected = torch.nn.functional.ctc_loss(
        head.linear(hidden).log_softmax(-1).transpose(0, 1),
        torch.tensor([[1, 2, 1, 2, 1]]),
        torch.tensor([12]),
        torch.tensor([5]),
        reduction="sum",
    )
    loss = head(hidden, torch.tensor([12]), torch.tensor([[2, 4]]))
    torch.testing.assert_close(loss, expected)


def test_padding_and_batch_mates_change_nothing(lexicon):
    head = head_for(lexicon)
    hidden = torch.randn(3, 12, SIZE)
    lengths = torch.tensor([12, 9, 5])
    text = torch.tensor([[2, 4, 3], [3, -1, -1], [4, -1, -1]])
    alone = sum(
        head(hidden[i : i + 1, :n], lengths[i : i + 1], text[i : i + 1, :k])
        for i, (n, k) in enumerate(((12, 3), (9, 1), (5, 1)))
    )
    for row, n in enumerate(lengths):
        hidden[row, n:] = 1e4
    torch.testing.assert_close(head(hidden, lengths, text), alone)


@pytest.mark.parametrize(
    ("text", "frames"),
    [([1, 2], 12), ([4, 4], 3), ([-1, -1], 12)],
    ids=["unknown_word", "too_short", "empty"],
)
def test_what_cannot_be_spoken_leaves_finite_gradients(lexicon, text, frames):
    head = head_for(lexicon).train()
    hidden = torch.randn(1, 12, SIZE, requires_grad=True)
    loss = head(hidden, torch.tensor([frames]), torch.tensor([text]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad).all()
    if text != [-1, -1]:
        assert loss.item() == 0.0


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ("NO n o\n", "ON, NOON"),
        (LINES + "ON\n", "line 5"),
        (LINES + "ON a n\n", "line 5"),
        (None, "No such file"),
    ],
    ids=["token_missing", "no_symbols", "two_pronunciations", "no_file"],
)
def test_bad_lexicon_is_an_error_that_names_the_place(tmp_path, lines, named):
    path = tmp_path / "lexicon.txt"
    if lines is not None:
        path.write_text(lines, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        head_for(path)
    assert named in str(error.value)


def test_model_adds_it_and_decodes_without(alphabet):
    encoder = make_small_encoder(interctc_layer_idx=[1])
    model = make_model(encoder=encoder, lexicon=str(alphabet), lexicon_weight=0.3)
    batch = make_batch()
    loss, stats, _ = model(**batch)
    terms = stats["loss_att"] + 0.5 * stats["loss_ctc"] + stats["loss_quantity"]
    assert stats["loss_lexicon"].item() > 0
    torch.testing.assert_close(loss, terms + 0.3 * stats["loss_lexicon"])
    # Stock decoding takes anything but a tensor for an encoder's inner layers.
    hidden, _ = model.encode(batch["speech"], batch["speech_lengths"])
    assert torch.is_tensor(hidden)
    plain = make_model(encoder=make_small_encoder())
    heads = [name for name in model.state_dict() if name not in plain.state_dict()]
    assert heads == ["lexicon_ctc.linear.weight", "lexicon_ctc.linear.bias"]
    kept = {k: v for k, v in model.state_dict().items() if k not in heads}
    plain.load_state_dict(kept)
    torch.testing.assert_close(
        plain.encode(batch["speech"], batch["speech_lengths"])[0], hidden
    )


def test_encoder_that_shows_no_inner_layer_is_refused(alphabet):
    with pytest.raises(ConfigError, match="interctc_layer_idx"):
        make_model(lexicon=str(alphabet))
