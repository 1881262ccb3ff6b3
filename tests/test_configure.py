"""Options in place of a configuration's: written by configure, or for one process."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import types
from pathlib import Path

import pytest
import yaml

from espnet_hkd.bin import configure as program
from espnet_hkd.border import hook, settings
from espnet_hkd.border.classes import CLASSES, load_class
from espnet_hkd.errors import CheckpointError, ConfigError
from espnet_hkd.pretrained.configure import RECORD, configure

CONFIG = """\
config: conf/train.yaml
max_epoch: 60
optim_conf:
    lr: 0.002
token_list:
- <blank>
- ÄÖ
- <sos/eos>
model: hkd_cif
model_conf:
    ctc_weight: 0.5
    teacher_dim: null
decoder: hkd_cif_transformer
decoder_conf:
    num_blocks: 2
    tail: 0.5
    threshold: 1.0
encoder: conformer
encoder_conf:
    num_blocks: 6
    output_size: 144
preencoder: null
preencoder_conf: {}
specaug: specaug
specaug_conf: null
preprocessor: hkd_teacher
version: '202611'
"""


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


def changed_lines(exp: Path) -> tuple[list[str], list[str]]:
    """Return the lines that went and those that came."""
    old = CONFIG.splitlines()
    new = (exp / "config.yaml").read_text(encoding="utf-8").splitlines()
    return [x for x in old if x not in new], [x for x in new if x not in old]


def load(exp: Path) -> dict:
    return yaml.safe_load((exp / "config.yaml").read_text(encoding="utf-8"))


def test_a_value_is_replaced_and_nothing_else(exp: Path):
    changes = configure(exp, ["decoder_conf.tail=0.4"])

    assert changes == ["decoder_conf.tail: 0.5 -> 0.4"]
    gone, come = changed_lines(exp)
    assert gone == ["    tail: 0.5"]
    assert come == ["    tail: 0.4"]


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("decoder_conf.early_eos=true", "    early_eos: true"),
        ("model_conf.quantity_weight=1e-3", "    quantity_weight: 0.001"),
        ("model_conf.acd_negatives=all", "    acd_negatives: all"),
        ("model_conf.teacher_dim=384", "    teacher_dim: 384"),
    ],
)
def test_values_are_typed_as_yaml(setting: str, line: str, exp: Path):
    configure(exp, [setting])

    assert line in changed_lines(exp)[1]
    section, _, entry = setting.partition(".")
    key = entry.partition("=")[0]
    assert load(exp)[section] == {
        **yaml.safe_load(CONFIG)[section],
        key: yaml.safe_load(line)[key],
    }


@pytest.mark.parametrize(
    "setting",
    [
        "encoder_conf.output_size=256",
        "encoder_conf.linear_units=1024",
        "specaug_conf.apply_time_warp=false",
        "preprocessor_conf.missing_teacher=skip",
    ],
    ids=["replaced", "added", "in an empty section", "in a new section"],
)
def test_a_key_is_replaced_or_added_whatever_the_section_holds(setting: str, exp: Path):
    configure(exp, [setting])

    section, _, entry = setting.partition(".")
    key, _, value = entry.partition("=")
    expected = yaml.safe_load(CONFIG)
    expected[section] = {**(expected.get(section) or {}), key: yaml.safe_load(value)}
    assert load(exp) == expected


def test_a_link_stays_a_link_and_permissions_stay_as_they_are(exp: Path):
    target = exp / "original.yaml"
    (exp / "config.yaml").rename(target)
    (exp / "config.yaml").symlink_to(target)
    target.chmod(0o640)

    configure(exp, ["decoder_conf.tail=0.4"])

    assert (exp / "config.yaml").is_symlink()
    assert load(exp)["decoder_conf"]["tail"] == 0.4
    assert target.stat().st_mode & 0o777 == 0o640


def test_several_settings_are_written_and_recorded(exp: Path):
    configure(exp, ["decoder_conf.tail=0.4", "decoder_conf.emit_unk=true"])
    configure(exp, ["decoder_conf.tail=0.3"])

    assert load(exp)["decoder_conf"]["tail"] == 0.3
    record = (exp / RECORD).read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in record] == [
        "decoder_conf.tail: 0.5 -> 0.4",
        "decoder_conf.emit_unk: (default) -> true",
        "decoder_conf.tail: 0.4 -> 0.3",
    ]


def test_a_trained_model_may_get_a_part_without_weights_and_lose_it_again(exp: Path):
    given = ["preencoder=hkd_short_pauses", "preencoder_conf.input_size=40"]
    assert configure(exp, given) == [
        "preencoder: null -> hkd_short_pauses",
        "preencoder_conf.input_size: (default) -> 40",
    ]
    assert load(exp)["preencoder"] == "hkd_short_pauses"
    assert load(exp)["preencoder_conf"] == {"input_size": 40}

    configure(exp, ["preencoder=null"])
    assert load(exp)["preencoder"] is None


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("decoder_conf.tale=0.4", "CIFDecoder has no option decoder_conf.tale"),
        ("decoder_conf.tail=high", "decoder_conf.tail has the wrong type"),
        ("decoder_conf.tail=true", "decoder_conf.tail has the wrong type"),
        ("decoder_conf.num_blocks=1.5", "decoder_conf.num_blocks has the wrong type"),
        ("decoder_conf.vocab_size=3", "no option decoder_conf.vocab_size"),
        ("decoder_conf.tail=[1", "the value of decoder_conf.tail is not YAML"),
        ("decoder_conf.tail", "cannot read the setting"),
        ("tail=0.4", "cannot read the setting"),
        ("optim_conf.lr=0.1", "there is no optim_conf"),
        ("preencoder_conf.x=1", "this model has no preencoder"),
        ("preencoder=sinc", "a trained model cannot get this preencoder"),
        ("encoder=conformer", "cannot read the setting"),
    ],
)
def test_a_setting_that_cannot_be_is_an_error_and_writes_nothing(
    setting: str, complaint: str, exp: Path
):
    with pytest.raises(ConfigError, match=complaint):
        configure(exp, ["decoder_conf.tail=0.1", setting])

    assert (exp / "config.yaml").read_text(encoding="utf-8") == CONFIG
    assert [path.name for path in exp.iterdir()] == ["config.yaml"]


def test_the_error_for_an_unknown_key_lists_the_known_ones(exp: Path):
    with pytest.raises(ConfigError) as info:
        configure(exp, ["decoder_conf.tale=0.4"])

    for name in ("tail", "threshold", "early_eos"):
        assert name in info.value.wanted.split(", ")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot read"),
        (b"\xff\xfe", "cannot read"),
        (b"decoder_conf: {", "cannot read"),
        (b"max_epoch: 3\n", "not the configuration of a trained ASR model"),
        (b"- a list\n", "is no configuration"),
    ],
    ids=["missing", "not text", "not YAML", "another YAML", "a list"],
)
def test_a_config_that_is_none_is_an_error(
    text: bytes | None, complaint: str, tmp_path: Path
):
    if text is not None:
        (tmp_path / "config.yaml").write_bytes(text)

    with pytest.raises(CheckpointError, match=complaint):
        configure(tmp_path, ["decoder_conf.tail=0.4"])


def test_a_write_that_fails_leaves_the_old_file(
    exp: Path, monkeypatch: pytest.MonkeyPatch
):
    def no_space(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", no_space)

    with pytest.raises(ConfigError, match=r"cannot write(.|\n)*No space"):
        configure(exp, ["decoder_conf.tail=0.4"])

    assert (exp / "config.yaml").read_text(encoding="utf-8") == CONFIG
    assert [path.name for path in exp.iterdir()] == ["config.yaml"]


def test_the_command_line_prints_changes_and_errors(
    exp: Path, capsys: pytest.CaptureFixture[str]
):
    program.main([str(exp), "decoder_conf.tail=0.4"])
    assert capsys.readouterr().out == "decoder_conf.tail: 0.5 -> 0.4\n"

    with pytest.raises(SystemExit, match=r"^espnet-hkd configure: CIFDecoder has"):
        program.main([str(exp), "decoder_conf.tale=0.4"])


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Return an ASR task whose build_model returns the arguments it is given."""

    class ASRTask:
        @classmethod
        def build_model(cls, args):
            return args

    module = types.ModuleType("task")
    module.ASRTask = ASRTask
    monkeypatch.setattr(hook, "_patches", [])
    monkeypatch.setattr(hook, "_imported", lambda: [module])
    return module


def arguments() -> argparse.Namespace:
    return argparse.Namespace(**yaml.safe_load(CONFIG))


def test_set_overrides_options_of_the_model_that_is_built_and_logs_it(
    task: types.ModuleType, caplog: pytest.LogCaptureFixture
):
    settings.install(["decoder_conf.tail=0.4", "preprocessor_conf.store=null"])

    with caplog.at_level(logging.WARNING):
        args = task.ASRTask.build_model(arguments())

    assert args.decoder_conf == {"num_blocks": 2, "tail": 0.4, "threshold": 1.0}
    assert args.preprocessor_conf == {"store": None}
    assert "decoder_conf.tail is 0.4 in this process (configuration: 0.5)" in (
        caplog.text
    )


def test_set_gives_a_model_a_part_without_weights(task: types.ModuleType):
    settings.install(["preencoder=hkd_short_pauses", "preencoder_conf.input_size=40"])

    args = task.ASRTask.build_model(arguments())

    assert args.preencoder == "hkd_short_pauses"
    assert args.preencoder_conf == {"input_size": 40}


def test_set_is_applied_once_however_often_the_task_is_served(
    task: types.ModuleType, caplog: pytest.LogCaptureFixture
):
    settings.install(["decoder_conf.tail=0.4"])
    for patch in hook._patches:
        patch.apply(task)

    task.ASRTask.build_model(arguments())

    assert caplog.text.count("decoder_conf.tail is 0.4") == 1


def test_set_is_an_error_where_a_model_is_built_without_the_parsed_arguments(
    task: types.ModuleType,
):
    task.ASRTask.build_model = classmethod(lambda cls, vocab_size: vocab_size)
    settings.install(["decoder_conf.tail=0.4"])

    with pytest.raises(ConfigError, match="--set cannot be had"):
        task.ASRTask.build_model(5)


def test_set_refuses_unknown_options_when_the_model_is_built(task: types.ModuleType):
    settings.install(["decoder_conf.tale=0.4"])

    with pytest.raises(ConfigError, match="CIFDecoder has no option"):
        task.ASRTask.build_model(arguments())


def test_options_of_a_parent_count_where_a_constructor_hands_keywords_on():
    known = settings.options(
        "preprocessor",
        load_class(CLASSES["preprocessor"]["hkd_teacher"]),
    )

    assert {"store", "missing_teacher", "space_symbol"} <= set(known)
    assert not {"token_list", "train", "self", "args"} & set(known)
