"""The CIF weights of a trained model, fitted anew to speech with pauses."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_hkd.checks import check_number
from espnet_hkd.errors import ConfigError, DataError
from espnet_hkd.files import read_table

CHECKPOINT = "train.total_count.ave.pth"
PREDICTOR = "decoder.weight_predictor."


def encode_set(
    recognizer: Any, plain: Any, paused: Any, data: Path, share: float, seed: int
) -> list[Any]:
    """Encode all utterances, a share of them with pauses.

    Args:
        recognizer: The model.
        plain: Preprocessor without pauses.
        paused: Preprocessor that puts pauses in.
        data: Kaldi-style set.
        share: Of the utterances that `paused` gets.
        seed: Of all that is drawn.

    Returns:
        An `Encoded` for each; those without a pause have weights to keep.

    Raises:
        DataError: A recording has no transcript.
    """
    import random

    import numpy as np
    import torch

    from espnet_hkd.nets.weight_fit import Encoded, weights_to_keep
    from espnet_hkd.speech.audio import load_audio

    # ESPnet's augmentation draws from the one, pauses from the other.
    random.seed(seed)
    np.random.seed(seed)
    texts, encoded = read_table(data / "text"), []
    for id, path in read_table(data / "wav.scp").items():
        if id not in texts:
            raise DataError(
                f"{id} of {data} has no transcript",
                got="audio only",
                wanted="the same utterances in text and wav.scp",
                remedy="give a whole set",
            )
        samples = load_audio(path, None, recognizer.sample_rate)
        pauses = random.random() < share
        preprocess = paused if pauses else plain
        made = preprocess(id, {"speech": samples, "text": texts[id]})
        speech = torch.as_tensor(made["speech"], dtype=torch.float32)
        with torch.no_grad():
            frames, lengths = recognizer.model.encode(
                speech[None], torch.tensor([len(speech)])
            )
        hidden = frames[0, : int(lengths[0])]
        kept = None
        if not pauses:
            kept = weights_to_keep(recognizer.model.decoder.weight_predictor, hidden)
        encoded.append(Encoded(hidden, len(made["text"]) + 1, kept))
    return encoded


def make_preprocessor(config: dict[str, Any], fs: int, **pauses: Any) -> Any:
    """The preprocessor of the model's training, without teacher, with other pauses."""
    from espnet_hkd.preprocessor import HKDPreprocessor

    conf: dict[str, Any] = dict(config.get("preprocessor_conf") or {})
    for key in ("store", "pause_prob", "pause_only_prob", "pause_seconds"):
        conf.pop(key, None)
    conf.update(fs=fs, **pauses)
    return HKDPreprocessor(
        train=True,
        token_type=config["token_type"],
        token_list=config["token_list"],
        bpemodel=config.get("bpemodel"),
        non_linguistic_symbols=config.get("non_linguistic_symbols"),
        text_cleaner=config.get("cleaner"),
        g2p_type=config.get("g2p"),
        **conf,
    )


def write_experiment(
    source: Any, out: Path, config: dict[str, Any], weights: dict[str, Any]
) -> None:
    """Configuration and checkpoint of the new experiment, those of `source` changed."""
    import torch
    import yaml

    from espnet_hkd.files import replace_file
    from espnet_hkd.pretrained.files import read_weights

    out.mkdir(parents=True, exist_ok=True)
    config = _bring(config, source.root, out)
    states = {
        name: value.float() if value.is_floating_point() else value
        for name, value in read_weights(source.weights).items()
    } | weights
    text = yaml.safe_dump(config, indent=4, sort_keys=False, allow_unicode=True)
    replace_file(out / CHECKPOINT, lambda new: torch.save(states, new))
    replace_file(
        out / "config.yaml", lambda new: new.write_text(text, encoding="utf-8")
    )


def _bring(value: Any, root: Path, out: Path) -> Any:
    """Copy the files of an unpacked model that its configuration names into `out`.

    They are gone when the program ends, unlike those of an experiment, whose names do
    not begin with the folder `root`.
    """
    if isinstance(value, dict):
        return {key: _bring(each, root, out) for key, each in value.items()}
    if isinstance(value, list):
        return [_bring(each, root, out) for each in value]
    if isinstance(value, str) and Path(value).is_relative_to(root):
        copy = out / Path(value).relative_to(root)
        if Path(value).is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            return str(shutil.copy(value, copy))
    return value


def fit(
    model: str,
    data: Path,
    out: Path,
    *,
    floor: float = 0.05,
    pause_prob: float = 0.5,
    pause_seconds: Sequence[float] = (0.3, 12.0),
    pause_only_prob: float = 0.05,
    epochs: int = 8,
    rate: float = 0.002,
    keep: float = 4.0,
    seed: int = 0,
) -> str:
    """Write an experiment whose weights were fitted; what was done, in a line.

    Args:
        model: An experiment, as `espnet_hkd.from_pretrained` takes it.
        data: Kaldi-style set that it was trained on.
        out: Experiment to write.
        floor: `weight_floor` of the new model.
        pause_prob: Share of the utterances that get a pause.
        pause_seconds: Shortest and longest pause.
        pause_only_prob: Share that becomes a pause without words.
        epochs: Passes over the set.
        rate: Learning rate.
        keep: How much the weights of utterances without a pause stay as they were.
        seed: Of all that is drawn.

    Raises:
        HKDError: The model or the set cannot be read, `out` is there already, or a
            number is out of range.
    """
    import espnet_hkd
    from espnet_hkd.cif import WeightPredictor
    from espnet_hkd.nets.weight_fit import fit_weights
    from espnet_hkd.pretrained.files import read_config
    from espnet_hkd.pretrained.packed import open_packed

    if (out / CHECKPOINT).exists():
        raise ConfigError(
            f"{out} is an experiment already",
            got=f"{CHECKPOINT} in it",
            wanted="a folder to make",
            remedy="give another --out, or remove it",
        )
    packed = open_packed(model)
    # As it stands in the experiment: paths in it are relative to the recipe's folder.
    own = Path(model) / "config.yaml"
    config = read_config(own) if own.is_file() else packed.read_config()
    recognizer = espnet_hkd.from_pretrained(model)
    decoder = recognizer.model.decoder
    if decoder.ctc_prior:
        raise ConfigError(
            "these weights correct those of CTC and cannot be fitted alone",
            got="a model trained with decoder_conf.ctc_prior: true",
            wanted="ctc_prior: false",
            remedy="train on with pauses (--pretrained_model), or set ctc_gate",
        )
    # Made first: what is out of range is refused before the long work.
    start = WeightPredictor(
        decoder.embed.embedding_dim,
        initial_weight=config["decoder_conf"].get("initial_weight", 0.25),
        dropout_rate=config["decoder_conf"].get("dropout_rate", 0.2),
        floor=floor,
    )
    start.load_state_dict(decoder.weight_predictor.state_dict())
    share = check_number(
        "--pause_prob and --pause_only_prob together",
        pause_prob + pause_only_prob,
        least=0.0,
        most=1.0,
    )
    plain = make_preprocessor(config, recognizer.sample_rate)
    paused = make_preprocessor(
        config,
        recognizer.sample_rate,
        pause_prob=pause_prob / max(share, 1e-6),
        pause_only_prob=pause_only_prob / max(share, 1e-6),
        pause_seconds=list(pause_seconds),
    )
    encoded = encode_set(recognizer, plain, paused, data, share, seed)
    if not encoded:
        raise DataError(
            f"{data} is empty",
            got="no utterance",
            wanted="the set that the model was trained on",
            remedy="correct the folder, or run stages 1 to 4",
        )
    fitted = fit_weights(
        start,
        encoded,
        epochs=epochs,
        rate=rate,
        keep=keep,
        seed=seed,
    )
    config["decoder_conf"] = config["decoder_conf"] | {"weight_floor": floor}
    weights = {PREDICTOR + key: value for key, value in fitted.state_dict().items()}
    write_experiment(packed, out, config, weights)
    return (
        f"{out}: weights fitted to {len(encoded)} utterances of {data}, "
        f"floor {floor}, on the rest of {model}"
    )
