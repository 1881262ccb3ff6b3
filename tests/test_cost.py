"""The costs of training configurations, on very small ones."""

from __future__ import annotations

import re

import pytest
import yaml

from espnet_hkd.bin import cost as program

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


def test_compares_configurations_with_the_first(tmp_path, capsys):
    small, deep = tmp_path / "small.yaml", tmp_path / "deep.yaml"
    small.write_text(yaml.safe_dump(CONFIG))
    encoder = CONFIG["encoder_conf"] | {"num_blocks": 12}
    config = CONFIG | {"encoder_conf": encoder, "model_conf": TEACHER}
    deep.write_text(yaml.safe_dump(config))
    program.main([*SMALL, "--config", str(small), str(deep)])
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == [str(small), str(deep)]
    first, second = ([float(n) for n in re.findall(r"\d+\.\d+", li)] for li in lines)
    assert first[3] == 1
    # Twelve layers cost more than one, whatever else the machine does.
    assert second[3] > 1.5
    for median, least, most, _ in (first, second):
        assert 0 < least <= median <= most


@pytest.mark.parametrize("option", ["--steps", "--seconds", "--threads"])
def test_nothing_to_measure_is_refused(option):
    options = [*SMALL, "--config", "any.yaml", option, "0"]
    with pytest.raises(SystemExit, match=f"{option} leaves nothing(.|\n)*more than 0"):
        program.main(options)
