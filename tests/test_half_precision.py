"""Training in half precision: what can be said about it without a GPU."""

import torch

from tests.small_models import make_batch, make_model


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
