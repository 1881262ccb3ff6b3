"""Options of ESPnet's own classes that do not apply to ours, and why.

A configuration made from one of ESPnet's brings them along; they are no misspellings.
"""

# Of its hybrid CTC/attention model.
MODEL = {
    "length_normalized_loss": "every loss is divided by the batch's target tokens",
    "report_cer": "validation reports acc and count_error, and stage 13 counts errors",
    "report_wer": "validation reports acc and count_error, and stage 13 counts errors",
    "interctc_weight": "inner layers are taught by `lexicon`, not by the tokens",
    "aux_ctc": "CTC has the tokens as its only labels",
    "transducer_multi_blank_durations": "there is no transducer",
    "transducer_multi_blank_sigma": "there is no transducer",
    "lang_token_id": "no language token stands before the text",
}

_ONE_DROPOUT = "dropout_rate holds for all of its parts"
_PRE_NORM = "its layers normalise before attention, without concatenation"
_ALL_LAYERS = "every layer is run on every batch"
_ATTENTION = "its attention is computed in one way only"

# Of its Transformer decoder.
DECODER = {
    "positional_dropout_rate": _ONE_DROPOUT,
    "self_attention_dropout_rate": _ONE_DROPOUT,
    "src_attention_dropout_rate": "there is no attention to the encoder",
    "input_layer": "tokens are embedded",
    "use_output_layer": "the output layer is always there",
    "pos_enc_class": "positions are absolute",
    "normalize_before": _PRE_NORM,
    "concat_after": _PRE_NORM,
    "layer_drop_rate": _ALL_LAYERS,
    "qk_norm": _ATTENTION,
    "use_flash_attn": _ATTENTION,
    "use_sdpa": _ATTENTION,
    "gradient_checkpoint_layers": _ALL_LAYERS,
}

_PUBLISHED = "this encoder's layers are those of the published one"
_NO_INNER = "this encoder shows no inner layer; of ESPnet's encoders conformer does"

# Of its Conformer encoder.
ENCODER = {
    "positional_dropout_rate": _ONE_DROPOUT,
    "attention_dropout_rate": _ONE_DROPOUT,
    "input_layer": "a convolution and two linear layers stand before the others",
    "normalize_before": _PRE_NORM,
    "concat_after": _PRE_NORM,
    "positionwise_layer_type": _PUBLISHED,
    "positionwise_conv_kernel_size": _PUBLISHED,
    "macaron_style": _PUBLISHED,
    "rel_pos_type": _PUBLISHED,
    "pos_enc_layer_type": _PUBLISHED,
    "selfattention_layer_type": _PUBLISHED,
    "activation_type": _PUBLISHED,
    "use_cnn_module": _PUBLISHED,
    "zero_triu": _PUBLISHED,
    "padding_idx": "its input is features, not tokens",
    "interctc_layer_idx": _NO_INNER,
    "interctc_use_conditioning": _NO_INNER,
    "ctc_trim": _NO_INNER,
    "stochastic_depth_rate": _ALL_LAYERS,
    "layer_drop_rate": _ALL_LAYERS,
    "max_pos_emb_len": "positions are made as long as the utterance",
    "qk_norm": _ATTENTION,
    "use_flash_attn": _ATTENTION,
    "use_sdpa": _ATTENTION,
}
