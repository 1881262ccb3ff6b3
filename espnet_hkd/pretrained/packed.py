"""Packed models: found, checked before anything in them is used, and opened.

A packed model is what `espnet2.bin.pack` writes (stage 14 of a recipe): a zip with
meta.yaml, config.yaml and a checkpoint. It may come from anywhere, so its sums and its
sizes are checked, no path in it leads out of its folder, and of its checkpoint only
tensors are read.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from espnet_hkd.border.settings import PARTS, chosen_class
from espnet_hkd.checks import is_number
from espnet_hkd.errors import CheckpointError, ConfigError, HKDError, printable
from espnet_hkd.pretrained.files import (
    FORMAT,
    check_pointer,
    first_line,
    read_config,
    read_weights,
)
from espnet_hkd.pretrained.limits import (
    FOLDER_OPTIONS,
    SECTIONS,
    check_archive,
    check_downloads,
    check_options,
    leaves,
    strings,
)

WANTED = "a packed model (.zip), a folder, or a hub name (user/model)"
# Beside the options of a model's parts, what decoding opens.
OPENED = ("bpemodel", "non_linguistic_symbols", "token_list")
# Preferred in this order where a folder says no more.
CHECKPOINTS = ("*.slim.pth", "*.ave.pth", "valid.acc.best.pth", "latest.pth")


class PackedModel(NamedTuple):
    """Files that belong together, and what keeps them where they are.

    `config` is read by ESPnet: paths in it are such that it finds the files they
    name, whatever the present folder. `root` is the package's own folder. `kept` must
    live as long as they are needed. `scorers` are the files of language models that
    were packed, too, by the names that ESPnet's `Speech2Text` has for them.
    """

    config: Path
    weights: Path
    root: Path
    kept: Any = None
    scorers: Mapping[str, Path] = MappingProxyType({})

    def read_config(self) -> dict[str, Any]:
        """The configuration."""
        return read_config(self.config)


def open_packed(name: str | Path) -> PackedModel:
    """Find a model, and check that it is whole, safe to read and of a known format.

    Args:
        name: A zip that `espnet2.bin.pack` wrote, a folder with such a zip's content,
            an experiment folder, a checkpoint in one, or a hub name ("user/model").

    Raises:
        CheckpointError: Nothing of the kind is there, it is damaged, it holds more
            than tensors, or it was packed by a later espnet_hkd.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        model = _open_folder(path)
    elif path.is_file() and path.suffix.lower() == ".pth":
        model = _resolved(path.parent / "config.yaml", path, _roots(path.parent))
    elif path.is_file():
        model = _unpack(path)
    elif path.suffix.lower() in (".zip", ".pth") or str(name).count("/") != 1:
        raise CheckpointError(
            f"there is no model {name}",
            got="no such file or folder",
            wanted=WANTED,
            remedy="correct the path, or make it with stage 14 of a recipe",
        )
    else:
        model = _download(str(name))
    _check_format(model.read_config(), name)
    read_weights(model.weights)
    return model._replace(scorers=_scorers(model))


def describe(name: str | Path) -> str:
    """The facts of a model, one a line, after all checks but that of its classes.

    Raises:
        CheckpointError: As for `open_packed`.
    """
    model = open_packed(name)
    config = model.read_config()
    numbers = sum(value.numel() for value in read_weights(model.weights).values())
    packed, decoding = (
        _section(config, "espnet_hkd"),
        _section(config, "inference_conf"),
    )
    tokens = config.get("token_list")
    facts = {
        "model": name,
        "format": packed.get("format", "none: an experiment, or not packed by `slim`"),
        "espnet_hkd": packed.get("version", "not said"),
        "encoder": config.get("encoder"),
        "decoder": config.get("decoder"),
        "weights": f"{numbers:,}",
        "tokens": f"{len(tokens) if isinstance(tokens, list) else tokens} "
        f"({config.get('token_type')})",
        "teacher": teacher(config),
        "decoding": ", ".join(f"{k} {v}" for k, v in decoding.items()) or "not said",
    }
    width = max(map(len, facts)) + 1
    return "\n".join(
        f"{key + ':':<{width}} {printable(str(value))}" for key, value in facts.items()
    )


def teacher(config: dict[str, Any]) -> str:
    """What a model was taught with, in words."""
    taught = _section(config, "taught_with") or _section(config, "model_conf")
    weights = [
        f"{key} {taught[key]}"
        for key in ("acd_weight", "lrd_weight")
        if is_number(taught.get(key)) and taught[key] > 0
    ]
    if not weights:
        return "none"
    plm = taught.get("plm")
    known = isinstance(plm, dict)
    named = (
        f"{plm.get('name')}, layer {plm.get('layer')}" if known else "not said which"
    )
    return f"{named} ({', '.join(weights)})"


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of a configuration; empty where there is none, or another thing."""
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def check_buildable(
    model: PackedModel, name: str | Path, *, allow_download: bool = False
) -> None:
    """Check all that can be checked of a model before anything of it is built.

    Args:
        model: What `open_packed` found.
        name: For the errors.
        allow_download: Allow parts that download what they are made of.

    Raises:
        CheckpointError: It is no CIF model, asks for a class that is not known or for
            sizes beyond its weights, or would download something.
    """
    config = model.read_config()
    for part in PARTS:
        if config.get(part) is None:
            continue
        try:
            chosen_class(part, str(config[part]))
        except ConfigError as error:
            raise CheckpointError(
                f"{name} asks for a {part} that is not known here",
                got=f"{part}: {config[part]}"[:200],
                wanted=error.wanted,
                remedy="install the ESPnet, espnet_hkd or plugin it was packed with"
                + _packed_with(config),
            ) from error
    if config.get("model") != "hkd_cif":
        raise CheckpointError(
            f"{name} is no CIF model",
            got=f"model: {config.get('model')}"[:200],
            wanted="model: hkd_cif",
            remedy="decode other models with espnet2.bin.asr_inference",
        )
    if not allow_download:
        check_downloads(config, model.root, name)
    if not isinstance(config.get("inference_conf"), dict | None):
        raise CheckpointError(
            f"inference_conf of {name} is no section",
            got=f"{config['inference_conf']!r}"[:200],
            wanted="options of espnet2.bin.asr_inference",
            remedy="pack it again with espnet-hkd slim --inference_config",
        )
    weights = read_weights(model.weights)
    check_options(config, name, layers=len(weights))
    _check_shapes(config, weights, name)
    if "lm_file" in model.scorers:
        _check_language_model(model, allow_download)


def _check_shapes(
    config: dict[str, Any], weights: dict[str, Any], name: str | Path
) -> None:
    """Build the model without memory for its weights, and compare their shapes."""
    from espnet2.tasks.asr import ASRTask

    from espnet_hkd.nets.loading import check_weights

    built = _build_without_memory(ASRTask, config, name)
    if built is not None:
        check_weights(built, weights)


def _build_without_memory(
    task: Any, config: dict[str, Any], name: str | Path
) -> Any | None:
    """A model of an ESPnet task whose weights have shapes and no values.

    None where a part of it looks at their values.
    """
    import torch

    try:
        with torch.device("meta"):
            return task.build_model(argparse.Namespace(**config))
    except HKDError:
        raise
    # Whatever a part raises that is not set up as its class wants it.
    except Exception as error:
        if "meta" in str(error):
            return None
        raise unbuildable(name, error) from error


def _check_language_model(model: PackedModel, allow_download: bool) -> None:
    """The same checks for the language model of a package.

    Raises:
        CheckpointError: It opens other files than the package's, asks for sizes beyond
            its weights, or would download something.
    """
    from espnet2.tasks.lm import LMTask

    path = model.scorers["lm_train_config"]
    config, weights = read_config(path), read_weights(model.scorers["lm_file"])
    _check_files(config, [model.root], path)
    if not allow_download:
        check_downloads(config, model.root, path)
    check_options(config, path, layers=len(weights))
    built = _build_without_memory(LMTask, config, path)
    own = {} if built is None else built.state_dict()
    other = sorted(
        key
        for key in own.keys() | weights.keys()
        if key not in own or key not in weights or own[key].shape != weights[key].shape
    )
    if other and built is not None:
        raise CheckpointError(
            f"the language model's weights are not those that {path.name} says",
            got=", ".join(other[:5]),
            wanted="the checkpoint and the configuration that training wrote together",
            remedy="pack it again",
        )


def unbuildable(name: str | Path, error: Exception) -> CheckpointError:
    """The error for a configuration of which no model can be made."""
    problem = f"no model can be built as the configuration of {name} says"
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    # What ESPnet wants for some parts only, such as kenlm for an n-gram.
    if missing and not missing.startswith("espnet"):
        return CheckpointError(
            problem,
            got=first_line(error),
            wanted=f"the module {missing}, which a part of the model needs",
            remedy=f"install it, as by `pip install {missing}`",
        )
    return CheckpointError(
        problem,
        got=first_line(error),
        wanted="the config.yaml that was written beside the checkpoint",
        remedy="use the ESPnet and espnet_hkd that the model was packed with",
    )


def _scorers(model: PackedModel) -> dict[str, Path]:
    """Files of the language model that meta.yaml names, and of a packed n-gram."""
    meta = model.root / "meta.yaml"
    if not meta.is_file():
        return {}
    entries = read_config(meta)
    conf = _section(model.read_config(), "inference_conf")
    named = {
        "lm_train_config": _section(entries, "yaml_files").get("lm_train_config"),
        "lm_file": _section(entries, "files").get("lm_file"),
        "ngram_file": conf.get("ngram_file"),
    }
    # The hub's own cache has links in the folder, so links are not followed here.
    paths = {
        key: Path(os.path.normpath(model.root / str(value)))
        for key, value in named.items()
        if value
    }
    found = {
        key: path
        for key, path in paths.items()
        if path.is_file() and path.is_relative_to(model.root)
    }
    if "lm_train_config" not in found or "lm_file" not in found:
        return {key: path for key, path in found.items() if key == "ngram_file"}
    # Of this checkpoint, too, only tensors are read.
    read_weights(found["lm_file"])
    return found


def _packed_with(config: dict[str, Any]) -> str:
    packed = config.get("espnet_hkd")
    if not isinstance(packed, dict) or "version" not in packed:
        return ""
    return f" (espnet_hkd {packed['version']})"


def _check_format(config: dict[str, Any], name: str | Path) -> None:
    """Refuse what a later version packed in a way this one does not know."""
    packed = config.get("espnet_hkd")
    # Experiments, and what was packed without `slim`, say nothing.
    if packed is None:
        return
    number = packed.get("format") if isinstance(packed, dict) else packed
    if number not in range(1, FORMAT + 1):
        from espnet_hkd.version import __version__

        raise CheckpointError(
            f"{name} was packed in a format that this version does not know",
            got=f"format {number}" + _packed_with(config),
            wanted=f"format {FORMAT} or below (espnet_hkd {__version__})",
            remedy="pip install --upgrade espnet_hkd",
        )


def _open_folder(folder: Path) -> PackedModel:
    """An unpacked model or an experiment folder."""
    meta = folder / "meta.yaml"
    if meta.is_file():
        return _resolved(*_members(read_config(meta), folder, folder), [folder])
    config = folder / "config.yaml"
    found = [path for name in CHECKPOINTS for path in sorted(folder.glob(name))]
    if not config.is_file() or not found:
        raise CheckpointError(
            f"{folder} is not a model folder",
            got=", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing",
            wanted="meta.yaml of a packed model, or config.yaml and a checkpoint",
            remedy="give the experiment's folder in exp, or the packed zip",
        )
    return _resolved(config, found[0], _roots(folder))


def _roots(folder: Path) -> list[Path]:
    """Where the paths of an experiment's configuration may begin: in its recipe.

    `exp/asr_NAME/slim` lies three folders below it.
    """
    folder = folder.resolve()
    return [folder, *folder.parents[:3]]


def _unpack(archive: Path) -> PackedModel:
    check_pointer(archive)
    folder = _temporary_folder()
    root = Path(folder.name)
    try:
        with zipfile.ZipFile(archive) as packed:
            outside = [name for name in packed.namelist() if leaves(name)]
            if outside:
                raise CheckpointError(
                    f"{archive} would write outside the folder it is unpacked in",
                    got=outside[0],
                    wanted="paths inside the archive",
                    remedy="do not use it; ask whoever packed it",
                )
            check_archive(packed, archive.stat().st_size)
            metas = [name for name in packed.namelist() if _is_meta(name)]
            if not metas:
                raise ValueError("no meta.yaml inside")
            packed.extractall(root)
    except CheckpointError:
        raise
    except OSError as error:
        raise _no_room(error) from error
    # A damaged archive raises whatever the first torn byte leads to.
    except Exception as error:
        raise CheckpointError(
            f"{archive} is not a packed model, or is damaged",
            got=first_line(error),
            wanted="a zip written by espnet2.bin.pack (stage 14 of a recipe)",
            remedy="copy or download the file again",
        ) from error
    # Who packs a folder by hand has that folder in the archive.
    root = root / Path(min(metas, key=len)).parent
    found = _members(read_config(root / "meta.yaml"), root, archive)
    model = _resolved(*found, [root])
    return model._replace(kept=(folder, model.kept))


def _is_meta(name: str) -> bool:
    return name == "meta.yaml" or (name.endswith("/meta.yaml") and name.count("/") == 1)


def _temporary_folder() -> tempfile.TemporaryDirectory:
    try:
        return tempfile.TemporaryDirectory(prefix="espnet_hkd_")
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> CheckpointError:
    return CheckpointError(
        "the model cannot be unpacked",
        got=f"{error.strerror or error} ({error.filename or tempfile.gettempdir()})",
        wanted="a folder for temporary files, with enough room on its disk",
        remedy="make room there, or set TMPDIR to another folder",
    )


def _members(entries: Any, folder: Path, name: Path) -> tuple[Path, Path]:
    """Paths of configuration and weights that meta.yaml names."""
    try:
        named = [
            str(entries["yaml_files"]["asr_train_config"]),
            str(entries["files"]["asr_model_file"]),
        ]
    except (KeyError, TypeError):
        raise CheckpointError(
            f"{name} is packed, but not as a speech recogniser",
            got=str(entries)[:200],
            wanted="asr_train_config and asr_model_file in its meta.yaml",
            remedy="give a zip that stage 14 of a recipe wrote",
        ) from None
    for member in named:
        if leaves(member) or not (folder / member).is_file():
            raise CheckpointError(
                f"{name} lacks a file that its meta.yaml names",
                got=f"no {member} inside",
                wanted="the configuration and the weights it names",
                remedy="pack it again, with `exp` inside the recipe's folder",
            )
    return folder / named[0], folder / named[1]


def _resolved(config: Path, weights: Path, roots: list[Path]) -> PackedModel:
    """A model whose configuration's paths are made such that they are found.

    They are relative to where `pack` or the recipe ran: the first of `roots` that has
    such a file. A package has one root, and all files that decoding opens are in it.
    """

    def locate(value: str) -> str:
        if os.path.isabs(value):
            return value
        found = (root / value for root in roots if os.path.isfile(root / value))
        return str(next(found, value))

    # Without "..", so that paths in them can be compared by their beginnings.
    roots = [Path(os.path.abspath(root)) for root in roots]
    original = read_config(config)
    _check_files(original, roots, config)
    changed = _map_paths(original, locate)
    # These are paths even where they have no folder.
    named = [key for key in OPENED if isinstance(changed.get(key), str)]
    changed |= {key: locate(changed[key]) for key in named}
    changed |= _located_folders(changed, roots)
    if changed == original:
        return PackedModel(config, weights, roots[0])
    kept = _temporary_folder()
    resolved = Path(kept.name) / "config.yaml"
    text = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
    try:
        resolved.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _no_room(error) from error
    return PackedModel(resolved, weights, roots[0], kept)


def _located_folders(config: dict[str, Any], roots: list[Path]) -> dict[str, Any]:
    """Sections of parts that read a folder, with its path where it is in `roots`."""
    changed = {}
    for part in PARTS:
        section, key = f"{part}_conf", FOLDER_OPTIONS.get(str(config.get(part)))
        options = config.get(section)
        value = options.get(key) if isinstance(options, dict) else None
        for root in roots:
            if isinstance(value, str) and value and (root / value).is_dir():
                changed[section] = {**config[section], key: str(root / value)}
                break
    return changed


def _check_files(config: dict[str, Any], roots: list[Path], path: Path) -> None:
    """Check the files that decoding opens: regular ones, and of a package its own.

    Raises:
        CheckpointError: It is to open something else.
    """
    packed = len(roots) == 1
    for section, values in config.items():
        of_a_part = section in SECTIONS or section == "inference_conf"
        named = section in OPENED and isinstance(values, str)
        if not (of_a_part or named):
            continue
        for key, value in strings(values, str(section)):
            # The store is for training: decoding does not open it.
            if key == "store":
                continue
            places = [os.path.normpath(root / value) for root in roots]
            regular = any(map(os.path.isfile, places))
            device = not regular and any(
                os.path.exists(place) and not os.path.isdir(place) for place in places
            )
            outside = packed and not Path(places[0]).is_relative_to(roots[0])
            if outside or device or (packed and named and not regular):
                raise CheckpointError(
                    f"{path.name} names a file that the package does not hold",
                    got=f"{key}: {value}"[:200],
                    wanted="files of the package, by paths relative to it"
                    if packed
                    else "regular files",
                    remedy="pack it again, with the file as --option of "
                    "espnet2.bin.pack; do not use it if you do not know who packed it",
                )


def _map_paths(value: Any, locate: Callable[[str], str]) -> Any:
    """Apply `locate` to all that may be a path, which no token is."""
    if isinstance(value, dict):
        return {
            key: item if key == "token_list" else _map_paths(item, locate)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_map_paths(item, locate) for item in value]
    return locate(value) if isinstance(value, str) and "/" in value else value


def _download(name: str) -> PackedModel:
    """A model of the hub: the files as they were uploaded, with no archive to unpack.

    ESPnet's own downloader would read their YAML before our limits do.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, library_name="espnet"
        )
    # The hub's client raises its own, OSError's and httpx's children.
    except Exception as error:
        raise CheckpointError(
            f"{name} is neither a file here nor a model that could be downloaded",
            got=first_line(error),
            wanted=WANTED,
            remedy="correct the name, or fetch the model where there is a network",
        ) from error
    return _open_folder(Path(folder))
