"""The benchmark for GPUs runs, at sizes at which its figures mean nothing."""

import pytest
import torch

from benchmarks import gpu

pytestmark = pytest.mark.slow


def test_all_parts_run_and_say_that_they_claim_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("HKD_CIF", raising=False)
    report = tmp_path / "gpu.md"
    gpu.main(["--tiny", "--out", str(report)])
    text = report.read_text()
    assert "claims nothing" in text
    assert "left out" not in text
    for title in ("## Operator", "## Contrastive loss", "## Training", "## Decoding"):
        assert text.count(title) == 1
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    systems = {row[0].strip("| ") for row in rows}
    assert {"CIF", "CIF with HKD", "ESPnet's hybrid"} <= systems
    # Two models, two beams, two batch sizes.
    assert (
        sum(row[0].strip("| ") in ("published size", "AN4's packed") for row in rows)
        == 8
    )


def test_no_row_is_started_when_time_is_over(tmp_path):
    report = tmp_path / "gpu.md"
    gpu.main(["--tiny", "--minutes", "0", "--out", str(report)])
    assert report.read_text().count("left out, out of time") == len(gpu.PARTS)


def test_without_a_gpu_it_says_how_to_run_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--tiny"):
        gpu.main(["--out", str(tmp_path / "gpu.md")])
