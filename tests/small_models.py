"""Small models with random weights, for tests."""

from __future__ import annotations

import torch

VOCAB = ["<blank>", "<unk>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "<sos/eos>"]
SIZE = 16


def make_decoder(seed: int = 0, **conf):
    from espnet_hkd.nets.decoder import CIFDecoder

    torch.manual_seed(seed)
    conf = {"attention_heads": 2, "linear_units": 32, "initial_weight": 0.4, **conf}
    decoder = CIFDecoder(len(VOCAB), SIZE, **conf)
    # Away from the near uniform start, so that ties cannot hide an error.
    torch.nn.init.normal_(decoder.output_layer.weight, std=0.6)
    torch.nn.init.normal_(decoder.weight_predictor.linear.weight, std=0.3)
    return decoder.eval()


def make_small_encoder(**conf):
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

    return ConformerEncoder(
        80,
        output_size=SIZE,
        attention_heads=2,
        linear_units=32,
        num_blocks=2,
        cnn_module_kernel=5,
        macaron_style=True,
        rel_pos_type="latest",
        pos_enc_layer_type="rel_pos",
        selfattention_layer_type="rel_selfattn",
        **conf,
    )


def make_pooled_encoder(**conf):
    from espnet_hkd.nets.encoder import PooledConformerEncoder

    return PooledConformerEncoder(
        80,
        output_size=SIZE,
        attention_heads=2,
        linear_units=32,
        num_blocks=2,
        pool_after=[1],
        **conf,
    )


def make_decoder_with_ctc(**conf):
    """A decoder whose CTC reads token 3 in frames with a large first number."""
    from espnet2.asr.ctc import CTC

    decoder = make_decoder(**conf)
    ctc = CTC(len(VOCAB), SIZE)
    torch.nn.init.zeros_(ctc.ctc_lo.weight)
    torch.nn.init.zeros_(ctc.ctc_lo.bias)
    with torch.no_grad():
        ctc.ctc_lo.bias[0] = 15.0
        ctc.ctc_lo.weight[3, 0] = 25.0
    decoder.ask_ctc(ctc)
    return decoder, ctc


def speech_and_pause(frames=400):
    """Frames (1, T, D) with five such tokens from the tenth on, and their number."""
    torch.manual_seed(1)
    hidden = 0.1 * torch.randn(1, frames, SIZE)
    hidden[0, 10:30:4, 0] = 1.0
    return hidden, torch.tensor([frames])


def make_model(
    seed: int = 0, *, decoder_conf=None, encoder=None, ctc_conf=None, **model_conf
):
    """A CIF recogniser of 80-dimensional features."""
    from espnet2.asr.ctc import CTC

    from espnet_hkd.nets.model import CIFASRModel

    decoder = make_decoder(seed, **(decoder_conf or {}))
    if encoder is None:
        encoder = make_small_encoder()
    model = CIFASRModel(
        vocab_size=len(VOCAB),
        token_list=VOCAB,
        frontend=None,
        specaug=None,
        normalize=None,
        preencoder=None,
        encoder=encoder,
        postencoder=None,
        decoder=decoder,
        ctc=CTC(len(VOCAB), SIZE, **(ctc_conf or {})),
        joint_network=None,
        **model_conf,
    )
    return model.eval()


def make_batch(seed: int = 0, *, lengths=(90, 61), labels=(6, 3), teacher_dim=None):
    """Random features (B, frames, 80) and labels, padded as ESPnet pads them."""
    torch.manual_seed(seed)
    batch = {
        "speech": torch.randn(len(lengths), max(lengths), 80),
        "speech_lengths": torch.tensor(lengths),
        "text": torch.randint(2, len(VOCAB) - 1, (len(labels), max(labels))),
        "text_lengths": torch.tensor(labels),
    }
    for row, (frames, count) in enumerate(zip(lengths, labels, strict=True)):
        batch["speech"][row, frames:] = 0.0
        batch["text"][row, count:] = -1
    if teacher_dim is not None:
        width = max(labels) + 1
        batch["teacher"] = torch.randn(len(labels), width, teacher_dim)
        batch["teacher_mask"] = torch.full((len(labels), width), -1)
        for row, count in enumerate(labels):
            batch["teacher"][row, count + 1 :] = 0.0
            batch["teacher_mask"][row, : count + 1] = 1
        batch["teacher_lengths"] = batch["text_lengths"] + 1
        batch["teacher_mask_lengths"] = batch["text_lengths"] + 1
    return batch


def write_experiment(folder, *, seed=0, **changes):
    """An experiment folder with a random model, as espnet2.bin.asr_train leaves it."""
    import argparse

    import yaml
    from espnet2.tasks.asr import ASRTask

    import espnet_hkd

    espnet_hkd.register()
    config = ASRTask.get_default_config()
    config.update(
        token_list=VOCAB,
        token_type="char",
        frontend="default",
        frontend_conf={"fs": "16k", "n_fft": 512, "win_length": 400, "hop_length": 160},
        specaug=None,
        specaug_conf={},
        normalize="utterance_mvn",
        normalize_conf={},
        encoder="conformer",
        encoder_conf={
            "output_size": SIZE,
            "attention_heads": 2,
            "linear_units": 32,
            "num_blocks": 2,
            "cnn_module_kernel": 5,
            "macaron_style": True,
            "rel_pos_type": "latest",
            "pos_enc_layer_type": "rel_pos",
            "selfattention_layer_type": "rel_selfattn",
        },
        decoder="hkd_cif_transformer",
        decoder_conf={"attention_heads": 2, "linear_units": 32, "initial_weight": 0.2},
        model="hkd_cif",
        model_conf={"acd_weight": 1.0, "lrd_weight": 0.01, "teacher_dim": 8},
        preprocessor="hkd_teacher",
        preprocessor_conf={"store": "data/teacher"},
    )
    config.update(changes)
    torch.manual_seed(seed)
    model = ASRTask.build_model(argparse.Namespace(**config))
    torch.nn.init.normal_(model.decoder.output_layer.weight, std=0.6)
    if config["decoder"] == "hkd_cif_transformer":
        torch.nn.init.normal_(model.decoder.weight_predictor.linear.weight, std=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config, sort_keys=False)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    torch.save(model.state_dict(), folder / "train.total_count.ave.pth")
    (folder / "RESULTS.md").write_text("none yet\n")
    return folder


def pack(folder, exp="exp/asr_hkd/slim", out="model.zip", options=()):
    """Pack an experiment below a recipe folder as ESPnet's stage 14 does."""
    import contextlib

    from espnet2.bin.pack import main

    files = ["--asr_train_config", f"{exp}/config.yaml"]
    files += ["--asr_model_file", f"{exp}/train.total_count.ave.pth"]
    for option in options:
        files += ["--option", option]
    with contextlib.chdir(folder):
        main(["asr", *files, "--outpath", out])
    return folder / out


def speech(seconds, *, rate=16000, seed=0):
    """Noise whose loudness comes and goes, so that weights differ over time."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(int(seconds * rate), generator=generator)
    time = torch.arange(len(samples)) / rate
    return (0.1 * samples * (1.1 + torch.sin(6 * time))).numpy()
