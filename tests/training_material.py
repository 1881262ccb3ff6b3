"""A training by ESPnet's own program that takes a second: a corpus and the call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import soundfile
import torch
import yaml

import espnet_hkd
from tests.small_models import VOCAB, speech

CONFIG = {
    "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160},
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 1,
        "cnn_module_kernel": 5,
        # What is drawn does not go on where it was when a training is resumed.
        "dropout_rate": 0.0,
        "positional_dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
    },
    "decoder": "hkd_cif_transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 32, "dropout_rate": 0.0},
    "model": "hkd_cif",
    "normalize": "utterance_mvn",
    "optim": "adamw",
    "optim_conf": {"lr": 0.003},
    "token_type": "char",
    "batch_type": "unsorted",
    "batch_size": 2,
    "num_workers": 0,
    "num_att_plot": 0,
    "keep_nbest_models": 5,
    "use_matplotlib": False,
    "use_tensorboard": False,
}


def make_corpus(folder: Path) -> Path:
    """Six utterances of noise with texts, and a configuration."""
    tables = {"wav.scp": [], "text": [], "shape": []}
    for number, text in enumerate(["ABBA", "CD", "EFG", "AHA", "BE", "DECADE"]):
        audio = speech(1.0 + 0.2 * number, seed=number)
        path = folder / f"u{number}.wav"
        soundfile.write(path, audio, 16000)
        tables["wav.scp"].append(f"u{number} {path}\n")
        tables["text"].append(f"u{number} {text}\n")
        tables["shape"].append(f"u{number} {len(audio)}\n")
    for name, lines in tables.items():
        (folder / name).write_text("".join(lines))
    config = yaml.safe_dump(CONFIG | {"token_list": VOCAB})
    (folder / "train.yaml").write_text(config)
    return folder


def command(corpus: Path, out: Path, *options: str) -> list[str]:
    """The options of ESPnet's asr_train; three updates an epoch."""
    given = ["--config", str(corpus / "train.yaml"), "--output_dir", str(out)]
    for part in ("train", "valid"):
        for table, name, kind in (("wav.scp", "speech", "sound"), ("text",) * 3):
            data = f"{corpus / table},{name},{kind}"
            given += [f"--{part}_data_path_and_name_and_type", data]
        given += [f"--{part}_shape_file", str(corpus / "shape")]
    return [*given, *options]


def train(corpus: Path, out: Path, *options: str) -> dict[str, Any]:
    """What `python -m espnet2.bin.asr_train` does; returns the last epoch's weights."""
    from espnet2.tasks.asr import ASRTask

    espnet_hkd.register()
    ASRTask.main(cmd=command(corpus, out, *options))
    return torch.load(out / "latest.pth", weights_only=True)
