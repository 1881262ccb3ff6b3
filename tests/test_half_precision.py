"""Training in half precision: what can be said about it without a GPU."""

import pytest
import torch

from tests.small_models import make_batch, make_model, make_pooled_encoder

HKD = {"acd_weight": 1.0, "lrd_weight": 0.01, "teacher_dim": 12}


def test_half_precision_counts_what_float32_counts():
    model = make_model(**HKD)
    batch = make_batch(teacher_dim=12)
    _, wanted, _ = model(**batch)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            _, stats, tokens = model(**batch)
        assert int(tokens) == 11
        for name in ("loss", "loss_att", "loss_acd", "loss_lrd", "loss_quantity"):
            torch.testing.assert_close(stats[name], wanted[name], rtol=0.1, atol=0.1)
        assert stats["count_error"] == wanted["count_error"]


class Training:
    """A small model with everything that keeps statistics, and an optimizer."""

    def __init__(self):
        encoder = make_pooled_encoder(front_channels=4)
        self.model = make_model(
            encoder=encoder, **HKD, kd_ramp=10, lrd_residual=True, extra_weight=1.0
        ).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)
        self.seed = 0

    def forward(self, **changes):
        """Loss, statistics and number of tokens of a batch, in float16."""
        batch = make_batch(teacher_dim=12)
        batch |= {"extra": batch["text"], "extra_lengths": torch.tensor([4, 0])}
        self.seed += 1
        torch.manual_seed(self.seed)
        # On processors with AVX512-FP16, oneDNN's float16 convolution of each channel
        # alone, with 15 taps over 44 frames, never returns (PyTorch 2.14).
        without_onednn = torch.backends.mkldnn.flags(enabled=False)
        with torch.autocast("cpu", dtype=torch.float16), without_onednn:
            return self.model(**{**batch, **changes})

    def step(self, scale, **changes):
        """What ESPnet's trainer does with `--use_amp true`; whether it was skipped."""
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        loss, stats, tokens = self.forward(**changes)
        scaler.scale(loss).backward()
        scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad()
        return not norm.isfinite(), stats, tokens


def assert_same_state(one, other):
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(
            other.model.state_dict()[name],
            value,
            rtol=0,
            atol=0,
            equal_nan=False,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_a_step_skipped_for_infinite_gradients_is_a_forward_pass_and_no_more():
    torch.manual_seed(0)
    skipped, only_forward = Training(), Training()
    only_forward.model.load_state_dict(skipped.model.state_dict())
    was_skipped, stats, tokens = skipped.step(2.0**100)
    assert was_skipped
    _, wanted, wanted_tokens = only_forward.forward()
    assert int(tokens) == int(wanted_tokens) == 11
    for name, value in wanted.items():
        assert torch.equal(stats[name], value), name
    # Weights stay; running statistics and means move as by any batch.
    assert_same_state(skipped, only_forward)
    # And the next step is the one that would have come without it.
    for training in (skipped, only_forward):
        assert not training.step(1.0)[0]
    assert_same_state(skipped, only_forward)


@pytest.mark.parametrize("spoilt", [torch.inf, torch.nan], ids=str)
def test_speech_that_overflows_leaves_nothing_behind_but_a_skipped_step(spoilt):
    """Statistics that took in an infinity would never leave it."""
    training = Training()
    training.step(1.0)
    before = {k: v.clone() for k, v in training.model.state_dict().items()}
    speech = make_batch()["speech"]
    speech[0, 10:20] = spoilt
    was_skipped, stats, tokens = training.step(1.0, speech=speech)
    assert was_skipped
    assert int(tokens) == 11
    # A weight that is no number counts as 0.
    assert stats["count_error"].isfinite()
    after = training.model.state_dict()
    for name, value in after.items():
        assert value.isfinite().all(), name
    weights = dict(training.model.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in weights)
    assert after["training_steps"] == 2
    assert not training.step(1.0)[0]
