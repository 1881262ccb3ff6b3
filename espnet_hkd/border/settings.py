"""Options of one's own in place of a configuration's: `decoder_conf.tail=0.4`.

A setting is checked against the constructor of the class that the configuration
chooses, so a slip of the pen is an error here and not an option without effect.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import logging
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from espnet_hkd.border import hook
from espnet_hkd.border.classes import CLASSES, load_class
from espnet_hkd.errors import ConfigError

# Parts of an ASR model that ESPnet lets a configuration choose and set up.
PARTS = (
    "frontend",
    "specaug",
    "normalize",
    "model",
    "preencoder",
    "encoder",
    "postencoder",
    "decoder",
    "preprocessor",
)

# Arguments that ESPnet passes to the constructors itself.
_GIVEN = {
    "model": "vocab_size token_list frontend specaug normalize preencoder encoder "
    "postencoder decoder ctc joint_network",
    "encoder": "input_size",
    "postencoder": "input_size",
    "decoder": "vocab_size encoder_output_size",
    "preprocessor": "train use_lang_prompt use_nlp_prompt token_type token_list "
    "bpemodel non_linguistic_symbols text_cleaner g2p_type rir_scp rir_apply_prob "
    "noise_scp noise_apply_prob noise_db_range short_noise_thres "
    "speech_volume_normalize aux_task_names",
}

# Parts without weights, which a trained model may be given or relieved of.
WEIGHTLESS = {"preencoder": (None, "hkd_short_pauses")}

_FORM = "PART_conf.KEY=VALUE, such as decoder_conf.tail=0.4"
_REMEDY = "correct the setting, or leave it out"
_FLOAT = r"[-+]?(\d+\.?\d*|\.\d+)e[-+]?\d+"

# What `install` was given in this process, for commands that are printed.
in_force: list[str] = []


@dataclass(frozen=True)
class Setting:
    """One option: the part's name without `_conf`, the key, the value.

    Without a key the value names the part's class, or is None for no such part.
    """

    part: str
    key: str | None
    value: object

    def __str__(self) -> str:
        return self.part if self.key is None else f"{self.part}_conf.{self.key}"


def parse_setting(text: str) -> Setting:
    """Read `PART_conf.KEY=VALUE`, or `PART=NAME` of a part without weights.

    The value is YAML.

    Raises:
        ConfigError: `text` has another form or names no part of a model.
    """
    import yaml

    part, _, name = text.partition("=")
    if part in WEIGHTLESS:
        return _weightless(text, part, None if name == "null" else name)
    match = re.fullmatch(r"(\w+)_conf\.(\w+)=(.*)", text, re.DOTALL)
    if match is None:
        raise ConfigError(
            f"cannot read the setting {text!r}", got=text, wanted=_FORM, remedy=_REMEDY
        )
    part, key, value = match.groups()
    if part not in PARTS:
        raise ConfigError(
            f"there is no {part}_conf",
            got=text,
            wanted=", ".join(f"{part}_conf" for part in PARTS),
            remedy=_REMEDY,
        )
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"the value of {part}_conf.{key} is not YAML",
            got=value,
            wanted=_FORM,
            remedy=_REMEDY,
        ) from error
    # YAML 1.1 takes 1e-3 for a string: it wants 1.0e-3.
    if isinstance(parsed, str) and re.fullmatch(_FLOAT, parsed, re.IGNORECASE):
        parsed = float(parsed)
    return Setting(part, key, parsed)


def _weightless(text: str, part: str, name: str | None) -> Setting:
    if name not in WEIGHTLESS[part]:
        raise ConfigError(
            f"a trained model cannot get this {part}",
            got=text,
            wanted=" or ".join(f"{part}={n or 'null'}" for n in WEIGHTLESS[part]),
            remedy="train a model with another, from the beginning",
        )
    return Setting(part, None, name)


def options(part: str, cls: type) -> dict[str, inspect.Parameter]:
    """Return what `PART_conf` may hold for a class, by name.

    A constructor that takes any keyword hands it on to its parent's, which is read
    then as well.
    """
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = _resolved_signature(base).parameters.values()
        for parameter in list(parameters)[1:]:
            if parameter.kind in (
                parameter.POSITIONAL_OR_KEYWORD,
                parameter.KEYWORD_ONLY,
            ):
                found.setdefault(parameter.name, parameter)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    given = _GIVEN.get(part, "").split()
    return {name: found[name] for name in found if name not in given}


def _resolved_signature(cls: type) -> inspect.Signature:
    try:
        return inspect.signature(cls.__init__, eval_str=True)
    except NameError:
        return inspect.signature(cls.__init__)


def check_setting(setting: Setting, cls: type) -> None:
    """Check that a class takes the option and the type of its value.

    Raises:
        ConfigError: It does not; the message lists the options there are.
    """
    known = options(setting.part, cls)
    if setting.key not in known:
        raise ConfigError(
            f"{cls.__name__} has no option {setting}",
            got=setting.key,
            wanted=", ".join(sorted(known)) or "none: it has no options",
            remedy=_REMEDY,
        )
    parameter = known[setting.key]
    if not _fits(setting.value, parameter):
        raise ConfigError(
            f"{setting} has the wrong type",
            got=f"{setting.value!r} ({type(setting.value).__name__})",
            wanted=f"{_type_name(parameter)}, {_default(parameter)}",
            remedy=_REMEDY,
        )


def _expected(parameter: inspect.Parameter) -> object:
    annotation = parameter.annotation
    if annotation is not parameter.empty and not isinstance(annotation, str):
        return annotation
    if parameter.default in (parameter.empty, None):
        return typing.Any
    return type(parameter.default)


def _fits(value: object, parameter: inspect.Parameter) -> bool:
    from typeguard import TypeCheckError, check_type

    if value is None and parameter.default is None:
        return True
    expected = _expected(parameter)
    # Python counts True among the numbers; a user who writes it does not.
    if isinstance(value, bool) and expected not in (typing.Any, object):
        return bool in (typing.get_args(expected) or (expected,))
    try:
        check_type(value, expected)
    except TypeCheckError:
        return False
    return True


def _type_name(parameter: inspect.Parameter) -> str:
    expected = _expected(parameter)
    return expected.__name__ if isinstance(expected, type) else str(expected)


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return "no default"
    return f"default {parameter.default!r}"


def chosen_class(part: str, name: str | None) -> type:
    """Return the class that a configuration's `part: name` stands for.

    ESPnet's ASR task, which takes seconds to import, is asked for its own classes only.

    Raises:
        ConfigError: The configuration chooses none, or one that is not known.
    """
    if name is None:
        raise ConfigError(
            f"this model has no {part}",
            got=f"a setting of {part}_conf",
            wanted="a setting of a part that the model has",
            remedy=_REMEDY,
        )
    if name in CLASSES.get(part, {}):
        return load_class(CLASSES[part][name])
    from espnet2.tasks import asr

    choices = getattr(asr, f"{part}_choices").classes
    if name not in choices:
        raise ConfigError(
            f"the configuration names an unknown {part}",
            got=name,
            wanted=", ".join(choices),
            remedy="run it where the package that brings it is installed",
        )
    return choices[name]


def apply(settings: Sequence[Setting], args: argparse.Namespace) -> None:
    """Check settings and write them into the arguments a model is built from."""
    for setting in settings:
        old = getattr(args, setting.part, None)
        if setting.key is None:
            setattr(args, setting.part, setting.value)
        else:
            check_setting(setting, chosen_class(setting.part, old))
            section = dict(getattr(args, f"{setting.part}_conf", None) or {})
            old = section.get(setting.key, "its default")
            section[setting.key] = setting.value
            setattr(args, f"{setting.part}_conf", section)
        logging.getLogger(__name__).warning(
            "--set: %s is %r in this process (configuration: %r)",
            setting,
            setting.value,
            old,
        )


def install(texts: Sequence[str]) -> None:
    """Override options of every ASR model that this process builds.

    Raises:
        ConfigError: A text is not a setting. Unknown keys and wrong types are found
            when a model is built, as only then its classes are known.
    """
    settings = [parse_setting(text) for text in texts]
    in_force[:] = texts
    wrapped: list[type] = []

    def wrap(task: ModuleType) -> None:
        if task.ASRTask in wrapped:
            return
        wrapped.append(task.ASRTask)
        build = task.ASRTask.build_model.__func__

        @functools.wraps(build)
        def build_model(cls, *given, **options):
            apply(settings, _namespace(*given, *options.values()))
            return build(cls, *given, **options)

        task.ASRTask.build_model = classmethod(build_model)

    hook.install([hook.Patch("--set", wrap, asked_for=True)])


def _namespace(*given: object) -> argparse.Namespace:
    """The arguments of a model among what its builder is given."""
    for args in given:
        if isinstance(args, argparse.Namespace):
            return args
    raise ConfigError(
        "--set cannot be had with this ESPnet",
        got="a build_model that is not given the parsed arguments",
        wanted="the ESPnet that espnet_hkd's page names",
        remedy="install it, or write the option into the configuration "
        "with `espnet-hkd configure`",
    )
