"""The costs of training configurations, on very small ones."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace

import pytest
import yaml

from espnet_hkd.bin import cost as program
from espnet_hkd.recipes import cost

CONFIG = {
    "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160},
    "encoder": "conformer",
    "encoder_conf": {"output_size": 16, "linear_units": 32, "num_blocks": 1},
    "decoder": "hkd_cif_transformer",
    "decoder_conf": {"linear_units": 32},
    "model": "hkd_cif",
}
TEACHER = {"acd_weight": 1.0, "lrd_weight": 0.01, "teacher_dim": 8}
SMALL = ("--tokens", "20", "--utterances", "2", "--seconds", "0.5", "--length", "3")


@pytest.fixture
def clock(monkeypatch):
    """CPU time as it would go by: the steps of two trainings, the first not timed."""
    lengths = [9.0, 1.0, 2.0, 3.0, 9.0, 2.0, 6.0, 4.0]
    ends = list(itertools.accumulate(lengths, initial=0.0))
    times = iter([time for pair in itertools.pairwise(ends) for time in pair])
    monkeypatch.setattr(cost, "time", SimpleNamespace(process_time=times.__next__))


def test_compares_configurations_with_the_first(tmp_path, capsys, clock):
    small, taught = tmp_path / "small.yaml", tmp_path / "taught.yaml"
    small.write_text(yaml.safe_dump(CONFIG))
    taught.write_text(yaml.safe_dump(CONFIG | {"model_conf": TEACHER}))
    program.main([*SMALL, "--config", str(small), str(taught)])
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == [str(small), str(taught)]
    first, second = ([float(n) for n in re.findall(r"\d+\.\d+", li)] for li in lines)
    # Two utterances of half a second: seconds per second of speech.
    assert first == [2.0, 1.0, 3.0, 1.0]
    assert second == [4.0, 2.0, 6.0, 2.0]


@pytest.mark.parametrize("option", ["--steps", "--seconds", "--threads"])
def test_nothing_to_measure_is_refused(option):
    options = [*SMALL, "--config", "any.yaml", option, "0"]
    with pytest.raises(SystemExit, match=f"{option} leaves nothing(.|\n)*more than 0"):
        program.main(options)
