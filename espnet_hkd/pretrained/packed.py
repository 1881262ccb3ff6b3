"""Packed models: found, checked before anything in them is used, and opened.

A packed model is what `espnet2.bin.pack` writes (stage 14 of a recipe): a zip with
meta.yaml, config.yaml and a checkpoint. It may come from anywhere, so its sums are
checked, no file of it leaves its folder, and of its checkpoint only tensors are read.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from espnet_hkd.errors import CheckpointError, ConfigError
from espnet_hkd.pretrained.files import FORMAT, read_config, read_weights

WANTED = "a packed model (.zip), a folder, or a hub name (user/model)"
# Preferred in this order where a folder says no more.
CHECKPOINTS = ("*.slim.pth", "*.ave.pth", "valid.acc.best.pth", "latest.pth")


class PackedModel(NamedTuple):
    """Files that belong together, and what keeps them where they are.

    `config` is read by ESPnet: paths in it are such that it finds the files they
    name, whatever the present folder. `kept` must live as long as they are needed.
    `language_model`: configuration and weights of one that was packed, too.
    """

    config: Path
    weights: Path
    kept: Any = None
    language_model: tuple[Path, Path] | None = None

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
    root = path
    if path.is_dir():
        model = _resolved(*_find_in_folder(path), folder=path)
    elif path.is_file() and path.suffix == ".pth":
        model = _resolved(path.parent / "config.yaml", path, folder=path.parent)
    elif path.is_file():
        folder = tempfile.TemporaryDirectory(prefix="espnet_hkd_")
        root = Path(folder.name)
        model = PackedModel(*_unpack(path, root), kept=folder)
    elif path.suffix in (".zip", ".pth") or str(name).count("/") != 1:
        raise CheckpointError(
            f"there is no model {name}",
            got="no such file or folder",
            wanted=WANTED,
            remedy="correct the path, or make it with stage 14 of a recipe",
        )
    else:
        model = PackedModel(*_download(str(name)))
    _check_format(model.read_config(), name)
    read_weights(model.weights)
    return model._replace(language_model=_language_model(root))


def describe(name: str | Path) -> str:
    """The facts of a model, one a line, after all checks but that of its classes.

    Raises:
        CheckpointError: As for `open_packed`.
    """
    model = open_packed(name)
    config = model.read_config()
    numbers = sum(value.numel() for value in read_weights(model.weights).values())
    packed = config.get("espnet_hkd") or {}
    decoding = config.get("inference_conf") or {}
    facts = {
        "model": name,
        "format": packed.get("format", "none: an experiment, or not packed by `slim`"),
        "espnet_hkd": packed.get("version", "not said"),
        "encoder": config.get("encoder"),
        "decoder": config.get("decoder"),
        "weights": f"{numbers:,}",
        "tokens": f"{len(config.get('token_list') or ())} ({config.get('token_type')})",
        "teacher": teacher(config),
        "decoding": ", ".join(f"{k} {v}" for k, v in decoding.items()) or "not said",
    }
    width = max(map(len, facts)) + 1
    return "\n".join(f"{key + ':':<{width}} {value}" for key, value in facts.items())


def teacher(config: dict[str, Any]) -> str:
    """What a model was taught with, in words."""
    taught = config.get("taught_with") or config.get("model_conf") or {}
    weights = [
        f"{key} {taught[key]}"
        for key in ("acd_weight", "lrd_weight")
        if taught.get(key, 0) > 0
    ]
    if not weights:
        return "none"
    plm = taught.get("plm")
    named = f"{plm['name']}, layer {plm['layer']}" if plm else "not said which"
    return f"{named} ({', '.join(weights)})"


def check_classes(config: dict[str, Any], name: str | Path) -> None:
    """Check that every class a configuration chooses is known here.

    Raises:
        CheckpointError: One is not; the message lists those that are.
    """
    from espnet_hkd.border.settings import PARTS, chosen_class

    for part in PARTS:
        if config.get(part) is None:
            continue
        try:
            chosen_class(part, config[part])
        except ConfigError as error:
            raise CheckpointError(
                f"{name} asks for a {part} that is not known here",
                got=f"{part}: {config[part]}",
                wanted=error.wanted,
                remedy="install the ESPnet, espnet_hkd or plugin it was packed with"
                + _packed_with(config),
            ) from error


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


def _find_in_folder(folder: Path) -> tuple[Path, Path]:
    """Configuration and weights in an unpacked model or an experiment folder."""
    meta = folder / "meta.yaml"
    if meta.is_file():
        return _members(read_config(meta), folder, folder)
    config = folder / "config.yaml"
    found = [path for name in CHECKPOINTS for path in sorted(folder.glob(name))]
    if not config.is_file() or not found:
        raise CheckpointError(
            f"{folder} is not a model folder",
            got=", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing",
            wanted="meta.yaml of a packed model, or config.yaml and a checkpoint",
            remedy="give the experiment's folder in exp, or the packed zip",
        )
    return config, found[0]


def _unpack(archive: Path, folder: Path) -> tuple[Path, Path]:
    from espnet2.main_funcs.pack_funcs import unpack

    try:
        if zipfile.is_zipfile(archive):
            _check_archive(archive)
        unpack(archive, folder, use_cache=False)
        metas = sorted(folder.glob("**/meta.yaml"))
        entries = yaml.safe_load(metas[0].read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    # A damaged archive raises whatever the first torn byte leads to.
    except Exception as error:
        raise CheckpointError(
            f"{archive} is not a packed model, or is damaged",
            got=f"{type(error).__name__}: {error}",
            wanted="a zip written by espnet2.bin.pack (stage 14 of a recipe)",
            remedy="copy or download the file again",
        ) from error
    return _members(entries, folder, archive)


def _check_archive(archive: Path) -> None:
    """Check the sums of a zip, and that none of its files leaves its folder."""
    with zipfile.ZipFile(archive) as packed:
        outside = [name for name in packed.namelist() if _leaves(name)]
        if outside:
            raise CheckpointError(
                f"{archive} would write outside the folder it is unpacked in",
                got=outside[0],
                wanted="paths inside the archive",
                remedy="do not use it; ask whoever packed it",
            )
        damaged = packed.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the sum of {damaged} is wrong")


def _leaves(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or ":" in name


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
        if _leaves(member) or not (folder / member).is_file():
            raise CheckpointError(
                f"{name} lacks a file that its meta.yaml names",
                got=f"no {member} inside",
                wanted="the configuration and the weights it names",
                remedy="pack it again, with `exp` inside the recipe's folder",
            )
    return folder / named[0], folder / named[1]


def _language_model(folder: Path) -> tuple[Path, Path] | None:
    """Configuration and weights of the language model that meta.yaml names, if any."""
    meta = folder / "meta.yaml"
    if not meta.is_file():
        return None
    entries = read_config(meta)
    config = str((entries.get("yaml_files") or {}).get("lm_train_config"))
    weights = str((entries.get("files") or {}).get("lm_file"))
    for member in (config, weights):
        if _leaves(member) or not (folder / member).is_file():
            return None
    # Of this checkpoint, too, only tensors are read.
    read_weights(folder / weights)
    return folder / config, folder / weights


def _resolved(config: Path, weights: Path, *, folder: Path) -> PackedModel:
    """A model in a folder, its configuration's paths made such that they are found.

    They are relative to where `pack` or the recipe ran: the folder or one above it.
    """
    roots = [folder.resolve(), *folder.resolve().parents]

    def locate(value: str) -> str:
        if Path(value).is_absolute():
            return value
        found = (root / value for root in roots if os.path.isfile(root / value))
        return str(next(found, value))

    original = read_config(config)
    changed = _map_paths(original, locate)
    if changed == original:
        return PackedModel(config, weights)
    kept = tempfile.TemporaryDirectory(prefix="espnet_hkd_")
    resolved = Path(kept.name) / "config.yaml"
    text = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
    resolved.write_text(text, encoding="utf-8")
    return PackedModel(resolved, weights, kept)


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


def _download(name: str) -> tuple[Path, Path]:
    from espnet_model_zoo.downloader import ModelDownloader

    try:
        found: Any = ModelDownloader().download_and_unpack(name)
        return Path(found["asr_train_config"]), Path(found["asr_model_file"])
    except Exception as error:
        raise CheckpointError(
            f"{name} is neither a file here nor a model that could be downloaded",
            got=f"{type(error).__name__}: {error}",
            wanted=WANTED,
            remedy="correct the name, or fetch the model where there is a network",
        ) from error
