"""Training in half precision: what can be said about it without a GPU."""

import copy

import torch

from tests.small_models import make_batch, make_model


def test_a_skipped_step_leaves_weights_statistics_and_counts_as_they_were():
    """A loss scale that overflows the gradients costs the step and nothing else."""
    model = make_model(acd_weight=1.0, lrd_weight=0.01, teacher_dim=12)
    batch = make_batch(teacher_dim=12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, backoff_factor=2.0**-110)
    before = copy.deepcopy(model.state_dict())

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, stats, tokens = model(**batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return {key: float(value) for key, value in stats.items()}, int(tokens)

    first, tokens = step()
    assert any(not p.grad.isfinite().all() for p in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    # The scale is down to 2 ** 10, and this step counts.
    second, again = step()
    assert second == first
    assert tokens == again == 11
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert any(
        not torch.equal(value, before[key]) for key, value in model.state_dict().items()
    )


def test_half_precision_counts_what_float32_counts():
    model = make_model(acd_weight=1.0, lrd_weight=0.01, teacher_dim=12)
    batch = make_batch(teacher_dim=12)
    _, wanted, _ = model(**batch)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            _, stats, tokens = model(**batch)
        assert int(tokens) == 11
        for name in ("loss", "loss_att", "loss_acd", "loss_lrd", "loss_quantity"):
            torch.testing.assert_close(stats[name], wanted[name], rtol=0.1, atol=0.1)
        assert stats["count_error"] == wanted["count_error"]
