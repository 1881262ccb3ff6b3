"""Training by ESPnet's own program, in this process, and in half precision."""

from __future__ import annotations

import logging

import pytest
import torch
from espnet2.layers import create_adapter_fn
from espnet2.layers.create_adapter import create_adapter
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

from espnet_hkd.errors import CheckpointError
from tests.small_models import make_batch, make_model
from tests.training_material import make_corpus, train

pytestmark = pytest.mark.slow

HKD = {"acd_weight": 1.0, "lrd_weight": 0.01, "teacher_dim": 8}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def two_epochs(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("exp") / "two_epochs"
    train(corpus, out, "--max_epoch", "2")
    return out


def test_resumed_training_ends_where_one_without_a_break_ends(
    corpus, two_epochs, tmp_path, caplog
):
    train(corpus, tmp_path / "exp", "--max_epoch", "1")
    caplog.set_level(logging.INFO)
    resumed = train(corpus, tmp_path / "exp", "--max_epoch", "2", "--resume", "true")
    assert "The training was resumed" in caplog.text
    straight = torch.load(two_epochs / "2epoch.pth", weights_only=True)
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, msg=lambda t, n=name: n + t)


def test_frozen_parts_stay_as_they_were_initialised(corpus, two_epochs, tmp_path):
    before = torch.load(two_epochs / "2epoch.pth", weights_only=True)
    after = train(
        *(corpus, tmp_path / "exp", "--max_epoch", "1"),
        *("--init_param", str(two_epochs / "2epoch.pth")),
        *("--freeze_param", "encoder.encoders", "ctc", "decoder.embed"),
    )
    frozen = ("encoder.encoders.", "ctc.", "decoder.embed.")
    for name, value in after.items():
        # Batch norm counts what it sees, whether its parameters move or not.
        if name.startswith(frozen) and "conv_module.norm" not in name:
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    moved = ("encoder.after_norm.weight", "decoder.output_layer.weight")
    assert not any(torch.equal(after[name], before[name]) for name in moved)


def test_gradients_accumulate_and_the_unfinished_rest_is_used_later(corpus, tmp_path):
    options = ("--max_epoch", "2", "--accum_grad", "2", "--grad_clip", "5.0")
    weights = train(corpus, tmp_path / "exp", *options)
    assert all(torch.isfinite(value).all() for value in weights.values())
    # Three batches an epoch: ESPnet steps after the second, and what the third gave
    # goes into the next epoch's step.
    state = torch.load(tmp_path / "exp" / "checkpoint.pth", weights_only=True)
    steps = {int(s["step"]) for s in state["optimizers"][0]["state"].values()}
    assert steps == {2}


def test_accumulated_batches_count_alike_whatever_they_hold():
    """Documented: with accum_grad a token of a small batch weighs more."""
    model = make_model()
    parts = [make_batch(1, labels=(6, 6)), make_batch(2, labels=(1, 1))]
    results = [model(**part) for part in parts]
    accumulated = sum(loss for loss, _, _ in results) / 2
    exact = sum(loss * weight for loss, _, weight in results)
    exact = exact / sum(weight for _, _, weight in results)
    assert not torch.allclose(accumulated, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_learns_with_exact_counts(dtype):
    model = make_model(**HKD).train()
    batch = make_batch(lengths=(190, 133, 60), labels=(20, 11, 4), teacher_dim=8)
    fired = []
    teacher_forced = model.decoder.teacher_forced

    def watched(*args):
        output = teacher_forced(*args)
        fired.append(output.fired)
        return output

    model.decoder.teacher_forced = watched
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    scaler = torch.amp.GradScaler("cpu")
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        # As ESPnet's trainer does with --use_amp true.
        with torch.autocast("cpu", dtype=dtype):
            loss, _, _ = model(**batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert all(torch.isfinite(torch.tensor(losses)))
    assert losses[-1] < 0.8 * losses[0]
    for tokens in fired:
        assert tokens.lengths.tolist() == [21, 12, 5]
        # Weights are summed in float32 whatever the encoder gives.
        assert tokens.mass.dtype == tokens.ends.dtype == torch.float32


class TestLoRA:
    """ESPnet's `--use_adapter true --adapter lora`, after `--freeze_param`."""

    @pytest.fixture(autouse=True)
    def loralib(self, monkeypatch):
        """The layers of loralib, or where it is missing the few that ESPnet uses."""
        if not create_adapter_fn.is_lora_available:
            monkeypatch.setattr(create_adapter_fn, "lora", PlainLoRA, raising=False)
            monkeypatch.setattr(create_adapter_fn, "is_lora_available", True)

    def adapted(self, seed=0):
        model = make_model(seed)
        for parameter in model.parameters():
            parameter.requires_grad = False
        conf = {"rank": 2, "alpha": 4, "target_modules": ["linear_q", "linear_v"]}
        create_adapter(model, "lora", conf)
        return model

    def test_trains_its_own_matrices_only(self):
        model = self.adapted().train()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.01)
        losses = []
        for _ in range(6):
            optimizer.zero_grad()
            loss, _, _ = model(**make_batch())
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        moved = {
            name
            for name, parameter in model.named_parameters()
            if not torch.equal(parameter, before[name])
        }
        assert {name.rpartition(".")[2] for name in moved} == {"lora_A", "lora_B"}
        # Two matrices for two projections in two layers of encoder and decoder each.
        assert len(moved) == 2 * 2 * 4

    def test_begins_with_a_plain_checkpoint_and_is_loaded_with_its_own(
        self, tmp_path, caplog
    ):
        caplog.set_level(logging.INFO, logger="espnet_hkd.nets.loading")
        torch.save(make_model(1).state_dict(), tmp_path / "plain.pth")
        model = self.adapted(2)
        load_pretrained_model(str(tmp_path / "plain.pth"), model, False)
        assert "decoder (" in caplog.text
        again = self.adapted(3)
        again.load_state_dict(model.state_dict())
        batch = make_batch()
        torch.testing.assert_close(again(**batch)[0], model(**batch)[0])

    def test_checkpoint_with_adapters_wants_them_in_the_configuration(self):
        with pytest.raises(CheckpointError, match="--use_adapter true"):
            make_model().load_state_dict(self.adapted().state_dict())

    def test_checkpoint_of_adapters_only_is_refused(self):
        """ESPnet would put them on random weights when it decodes."""
        model = self.adapted()
        only = {k: v for k, v in model.state_dict().items() if "lora_" in k}
        with pytest.raises(CheckpointError, match="--save_strategy all"):
            self.adapted().load_state_dict(only)


class PlainLoRA:
    """What ESPnet uses of loralib: layers with a product of low rank beside them."""

    class LoRALayer:
        pass

    class Linear(torch.nn.Linear, LoRALayer):
        def __init__(self, size, out, *, bias, r, lora_alpha, lora_dropout):
            super().__init__(size, out, bias=bias)
            self.lora_A = torch.nn.Parameter(torch.randn(r, size) / r)
            self.lora_B = torch.nn.Parameter(torch.zeros(out, r))
            self.scaling = lora_alpha / r

        def forward(self, input):
            low = input @ self.lora_A.t() @ self.lora_B.t()
            return super().forward(input) + low * self.scaling
