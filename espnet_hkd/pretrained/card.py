"""Model cards in the form of the Hugging Face hub, from what is in a packed model."""

from __future__ import annotations

import copy
import re
import shutil
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from espnet_hkd.errors import CheckpointError, ConfigError
from espnet_hkd.files import replace_file
from espnet_hkd.pretrained.files import read_config, read_weights
from espnet_hkd.pretrained.packed import open_packed

CARD = "README.md"
# Options of a decoding configuration that `Speech2Text` takes.
DECODING = ("beam_size", "ctc_weight", "penalty", "maxlenratio", "minlenratio")


@dataclass(frozen=True)
class Facts:
    """What a card says that the packed model does not know.

    Attributes:
        language: ISO 639 code, or several.
        datasets: What it was trained on, best as named on the hub.
        license: Of the model, an identifier of the hub such as "cc-by-4.0".
        teacher_licenses: By name of the teacher.
    """

    language: str | list[str] | None = None
    datasets: list[str] = field(default_factory=list)
    license: str | None = None
    teacher_licenses: dict[str, str] = field(default_factory=dict)


def read_facts(path: str | Path | None) -> Facts:
    """Read the YAML file of a recipe; None: nothing is known.

    Raises:
        CheckpointError: It is missing or not YAML.
        ConfigError: It has a key that means nothing, or a value of another type.
    """
    if path is None:
        return Facts()
    found = read_config(Path(path))
    known = {entry.name: entry for entry in fields(Facts)}
    unknown = sorted(map(str, found.keys() - known.keys()))
    if unknown:
        raise ConfigError(
            f"unknown key in {path}: {', '.join(unknown)}",
            got=unknown[0],
            wanted=", ".join(known),
            remedy="correct its spelling, or leave it out",
        )
    types = {
        "language": (str, list),
        "datasets": list,
        "license": str,
        "teacher_licenses": dict,
    }
    for key, value in found.items():
        if not isinstance(value, types[key]):
            raise ConfigError(
                f"{key} in {path} has the wrong type",
                got=repr(value),
                # YAML 1.1 reads the code of Norwegian as false.
                wanted='as in `language: "no"`, `datasets: [an4]`, '
                "`license: cc-by-4.0`, `teacher_licenses: {bert-base-chinese: "
                "apache-2.0}`",
                remedy=f"correct {path}",
            )
    return Facts(**found)


def write_card(
    archive: str | Path, facts: Facts, *, hub_name: str | None = None
) -> str:
    """Write the card of a packed model into its zip; one that is there is replaced.

    Args:
        archive: A zip that `espnet2.bin.pack` wrote.
        facts: What it does not know itself.
        hub_name: "user/model", if it is to be published; None: it is named by file.

    Returns:
        The card.

    Raises:
        CheckpointError: As for `open_packed`.
        ConfigError: It is to be published and nobody says under which licence.
    """
    archive = Path(archive)
    if not zipfile.is_zipfile(archive):
        raise CheckpointError(
            f"{archive} cannot be given a model card",
            got="a file that is no zip" if archive.exists() else "no such file",
            wanted="a packed model",
            remedy="run stage 14 of the recipe",
        )
    if hub_name is not None and not facts.license:
        raise ConfigError(
            f"{hub_name} is to be published without a licence: nobody could use it",
            got="no `license` among the card's facts",
            wanted="an identifier of the hub, such as `license: cc-by-4.0`",
            remedy="add it to the recipe's conf/card.yaml; corpus and teacher may bind "
            "you",
        )
    card = model_card(archive, facts, hub_name=hub_name)

    def write(path: Path) -> None:
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.infolist():
                if entry.filename == CARD:
                    continue
                # Writing changes an entry: a copy, so that `old` stays readable.
                with (
                    old.open(entry) as source,
                    new.open(copy.copy(entry), "w") as target,
                ):
                    shutil.copyfileobj(source, target)
            new.writestr(CARD, card)

    replace_file(archive, write)
    return card


def model_card(archive: Path, facts: Facts, *, hub_name: str | None = None) -> str:
    """Compose the card; see `write_card`."""
    model = open_packed(archive)
    config = model.read_config()
    with zipfile.ZipFile(archive) as packed:
        members = packed.namelist()
        texts = [
            packed.read(name).decode()
            for name in members
            if Path(name).name == "RESULTS.md"
        ]
        meta = yaml.safe_load(packed.read("meta.yaml"))
    numbers = sum(value.numel() for value in read_weights(model.weights).values())
    name = hub_name or archive.name
    sections = [
        _header(facts),
        f"# {name.split('/')[-1].removesuffix('.zip')}",
        _what_it_is(config, facts, numbers),
        "## Results\n\n" + _results(texts),
        "## How to use it\n\n" + _usage(name, config, meta),
        "## How it was trained\n\n" + _training(config, facts),
        "## Limits\n\n" + _limits(config, facts),
        "## Citations\n\n" + CITATIONS,
    ]
    return "\n\n".join(sections) + "\n"


def _header(facts: Facts) -> str:
    """What the hub reads of a card, in its own form."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        language=facts.language,
        datasets=facts.datasets or None,
        license=facts.license or "unknown",
        library_name="espnet",
        pipeline_tag="automatic-speech-recognition",
        tags=[
            "espnet",
            "espnet_hkd",
            "audio",
            "automatic-speech-recognition",
            "cif",
            "knowledge-distillation",
        ],
    )
    return f"---\n{data.to_yaml()}\n---"


def _what_it_is(config: dict[str, Any], facts: Facts, numbers: int) -> str:
    corpora = _listed(facts.datasets) or "a corpus that is not named here"
    taught = " and taught by a language model" if _plm_weights(config) else ""
    return (
        f"A CIF (continuous integrate-and-fire) speech recogniser for ESPnet, trained "
        f"on {corpora}{taught}: {numbers / 1e6:.1f} million weights, "
        f"{config['encoder']} encoder, {len(config['token_list']):,} tokens "
        f"({config['token_type']}). CIF weighs encoder frames, sums them up and fires "
        "one vector per token, so every token comes with its time. At decoding time "
        "neither the language model nor the package transformers is needed."
    )


def _results(texts: list[str]) -> str:
    """The tables of RESULTS.md, without what names the machine they were made on."""
    lines = [
        line
        for text in texts
        for line in text.splitlines()
        if line.startswith(("|", "### ")) or re.match(r"## (?!Environments)", line)
    ]
    if not any(re.match(r"\|[^|]+\|\d", line) for line in lines):
        return "It has not been scored."
    table = []
    for line in lines:
        # Headings stand one level below the card's own, and between empty lines.
        table += ["", f"#{line}", ""] if line.startswith("#") else [line]
    # ESPnet also heads the tables of units that were not scored.
    empty = r"#+ \w+\n\n\|dataset.*\n\|---.*(\n(?!\|)|\Z)"
    text = re.sub(r"\n{3,}", "\n\n", re.sub(empty, "", "\n".join(table)))
    return (
        "As counted by sclite: per cent of words (WER), characters (CER) or tokens "
        "(TER).\n" + text.rstrip()
    )


def _usage(name: str, config: dict[str, Any], meta: dict[str, Any]) -> str:
    from espnet_hkd.version import __version__

    conf = config.get("inference_conf") or {}
    options = [f"{key}={conf[key]!r}" for key in DECODING if key in conf]
    stock = ", ".join([f'"{name}"', *options])
    lm = (
        "\nThe language model that is packed with it is used by `Speech2Text` "
        f"(`lm_weight={conf.get('lm_weight', 1.0)}`), not by `espnet_hkd`.\n"
        if "lm_file" in (meta.get("files") or {})
        else ""
    )
    version = (config.get("espnet_hkd") or {}).get("version", __version__)
    return f"""\
ESPnet alone does not know this kind of model; the plugin does, and brings ESPnet along:

```bash
pip install "espnet_hkd>={version}"      # or, in a clone of it: pip install .
```

```python
import espnet_hkd

recognizer = espnet_hkd.from_pretrained("{name}")
for transcript in recognizer(["one.wav", "two.flac"], beam={conf.get("beam_size", 10)}):
    print(transcript.text)
    for token in transcript.tokens:
        print(token.symbol, token.start, token.end, token.confidence)
```

ESPnet's own interface gives the same text, once the plugin is installed:

```python
import soundfile
from espnet2.bin.asr_inference import Speech2Text

recognizer = Speech2Text.from_pretrained({stock})
print(recognizer(soundfile.read("one.wav")[0])[0][0])
```

It was packed with ESPnet {meta.get("espnet", "of a version that is not named")} and
PyTorch {meta.get("torch", "of a version that is not named")}. Audio is expected at
{_rate(config)}; `espnet_hkd` resamples, `Speech2Text` does not.
{lm}
To start training from it on a corpus of your own, a new token list included, give any
recipe of `espnet_hkd` `--pretrained_model {name}` and the encoder and decoder of its
config.yaml."""


def _training(config: dict[str, Any], facts: Facts) -> str:
    taught = config.get("taught_with") or {}
    terms = "cross entropy, CTC and the quantity loss of CIF"
    if taught.get("lexicon_weight"):
        terms += f", CTC of pronunciations (weight {taught['lexicon_weight']})"
    weights = _plm_weights(config)
    if not weights:
        return f"Losses: {terms}. No language model was its teacher."
    plm = taught.get("plm")
    name = plm["name"] if plm else "a language model that is not named here"
    layer = f" (layer {plm['layer']})" if plm else ""
    licence = facts.teacher_licenses.get(
        name, "not stated by who packed this model: see the teacher's own page"
    )
    return (
        f"Losses: {terms}, and hierarchical knowledge distillation (HKD, Han et al., "
        f"2023): {_listed(weights)}. Teacher: {name}{layer}, licence: {licence}. The "
        "teacher's states of the transcripts were used; none of its weights are in "
        "this model."
    )


def _plm_weights(config: dict[str, Any]) -> list[str]:
    """The distillation losses a model was trained with, in words."""
    taught = config.get("taught_with") or {}
    named = {
        "acd_weight": "acoustic contrastive distillation",
        "lrd_weight": "linguistic regression distillation",
    }
    return [
        f"{words} (weight {taught[key]})"
        for key, words in named.items()
        if taught.get(key, 0) > 0
    ]


def _limits(config: dict[str, Any], facts: Facts) -> str:
    corpora = _listed(facts.datasets) or "its training corpus"
    units = {"word": "words", "char": "characters", "bpe": "subword units"}
    kind = units.get(str(config["token_type"]), "tokens")
    decoder = config.get("decoder_conf") or {}
    spare = decoder.get("count_search") or 0
    counted = f"; the search tries up to {spare} more and fewer" if spare else ""
    if spare and decoder.get("valley"):
        places = "the most doubtful place" if spare == 1 else f"{spare} doubtful places"
        counted = f"; the search tries one more or fewer at {places}"
    return f"""\
- It writes only what its {len(config["token_list"]):,} {kind} can spell.
- It knows speech as in {corpora}; other accents, noise and subjects were not tested
  beyond the results above.
- It does not stream, and the plugin cuts audio of more than 30 s at silences.
- The number of tokens comes from the firings{counted}: beyond that no
  beam or language model mends a token that did not fire."""


def _rate(config: dict[str, Any]) -> str:
    return f"{(config.get('frontend_conf') or {}).get('fs', '16k')}Hz"


def _listed(names: list[str]) -> str:
    return " and ".join(
        part for part in (", ".join(names[:-1]), "".join(names[-1:])) if part
    )


CITATIONS = """\
```bibtex
@inproceedings{han2023hkd,
  title = {Knowledge Transfer from Pre-trained Language Models to {CIF}-based Speech
    Recognizers via Hierarchical Distillation},
  author = {Han, Minglun and Chen, Feilong and Shi, Jing and Xu, Shuang and Xu, Bo},
  booktitle = {Interspeech},
  year = {2023},
  note = {arXiv 2301.13003}
}
@inproceedings{dong2020cif,
  title = {{CIF}: Continuous Integrate-and-Fire for End-to-End Speech Recognition},
  author = {Dong, Linhao and Xu, Bo},
  booktitle = {ICASSP},
  year = {2020}
}
@inproceedings{watanabe2018espnet,
  title = {{ESPnet}: End-to-End Speech Processing Toolkit},
  author = {Watanabe, Shinji and Hori, Takaaki and Karita, Shigeki and Hayashi, Tomoki
    and Nishitoba, Jiro and Unno, Yuya and Enrique Yalta Soplin, Nelson and Heymann,
    Jahn and Wiesner, Matthew and Chen, Nanxin and Renduchintala, Adithya and Ochiai,
    Tsubasa},
  booktitle = {Interspeech},
  year = {2018}
}
```"""
