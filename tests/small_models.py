"""Small models with random weights, for tests."""

from __future__ import annotations

import torch

VOCAB = ["<blank>", "<unk>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "<sos/eos>"]
SIZE = 16


def make_decoder(seed: int = 0, **conf):
    from espnet_hkd.decoder import CIFDecoder

    torch.manual_seed(seed)
    conf = {"attention_heads": 2, "linear_units": 32, "initial_weight": 0.4, **conf}
    decoder = CIFDecoder(len(VOCAB), SIZE, **conf)
    # Away from the near uniform start, so that ties cannot hide an error.
    torch.nn.init.normal_(decoder.output_layer.weight, std=0.6)
    torch.nn.init.normal_(decoder.weight_predictor.linear.weight, std=0.3)
    return decoder.eval()


def make_model(seed: int = 0, *, decoder_conf=None, encoder=None, **model_conf):
    """A CIF recogniser of 80-dimensional features."""
    from espnet2.asr.ctc import CTC
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

    from espnet_hkd.model import CIFASRModel

    decoder = make_decoder(seed, **(decoder_conf or {}))
    if encoder is None:
        encoder = ConformerEncoder(
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
        )
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
        ctc=CTC(len(VOCAB), SIZE),
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
