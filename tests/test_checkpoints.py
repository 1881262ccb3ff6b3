"""A training that is killed, finds the disk full or its files damaged goes on."""

from __future__ import annotations

import errno
import os
import pathlib
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from espnet2.bin import asr_train
from espnet2.train import trainer

from espnet_hkd import run
from espnet_hkd.bin import resume
from espnet_hkd.border import settings
from espnet_hkd.border.checkpoints import install_atomic_saving, look_through
from espnet_hkd.errors import CheckpointError
from tests.training_material import command, make_corpus, train

pytestmark = pytest.mark.slow

EPOCHS = ("--max_epoch", "3", "--resume", "true", "--keep_nbest_models", "2")
AVERAGE = "train.total_count.ave_2best.pth"
UPDATES = 9  # of three epochs
KILLED = 9


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = make_corpus(tmp_path_factory.mktemp("corpus"))
    last = "best_model_criterion:\n- [train, total_count, max]\n- [valid, acc, max]\n"
    with (folder / "train.yaml").open("a") as config:
        config.write(last)
    return folder


@pytest.fixture(scope="module")
def straight(corpus, tmp_path_factory) -> Path:
    """The experiment of a training that nothing stopped."""
    exp = tmp_path_factory.mktemp("straight") / "exp"
    train(corpus, exp, *EPOCHS)
    return exp


@pytest.fixture(scope="module")
def two_epochs(corpus, tmp_path_factory) -> Path:
    exp = tmp_path_factory.mktemp("two") / "exp"
    train(corpus, exp, *EPOCHS, "--max_epoch", "2")
    return exp


@pytest.fixture
def begun(two_epochs, tmp_path) -> Path:
    """The experiment after two of three epochs."""
    return shutil.copytree(two_epochs, tmp_path / "exp", symlinks=True)


def load(path: Path):
    return torch.load(path, weights_only=True)


def updates(exp: Path) -> int:
    state = load(exp / "checkpoint.pth")["optimizers"][0]["state"]
    return max(int(each["step"]) for each in state.values())


def ends_as(exp: Path, straight: Path) -> None:
    """Every file of a training that nothing stopped is there, and means the same."""
    assert updates(exp) == updates(straight) == UPDATES
    names = {path.name for path in straight.glob("*.pth")}
    # An epoch that ESPnet did not come to remove does no harm.
    assert {path.name for path in exp.glob("*.pth")} - {"1epoch.pth"} == names
    for name in ("3epoch.pth", "latest.pth", AVERAGE):
        expected = load(straight / name)
        for key, value in load(exp / name).items():
            torch.testing.assert_close(value, expected[key], msg=lambda t, k=key: k + t)


def cut(path: Path, size: int = 1000) -> None:
    path.write_bytes(path.read_bytes()[:size])


def change_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def die_at(owner, name: str, call: int, *, after: bool = False) -> None:
    """End this process like kill -9 at the call-th call of a function."""
    original, calls = getattr(owner, name), iter(range(1, 1000))

    def deadly(*args, **kwargs):
        here = next(calls) == call
        if here and not after:
            os._exit(KILLED)
        result = original(*args, **kwargs)
        if here:
            os._exit(KILLED)
        return result

    setattr(owner, name, deadly)


def half_written(owner, name: str, call: int) -> None:
    """End this process when half of the call-th file that is synced is on the disk."""
    original, calls = os.fsync, iter(range(1, 1000))

    def deadly(descriptor):
        if next(calls) == call:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            os.truncate(path, os.stat(path).st_size // 2)
            os._exit(KILLED)
        original(descriptor)

    owner.fsync = deadly


# An epoch writes two files, then links; after the last one come two averages. Each file
# is synced before it is renamed, and its folder after.
MOMENTS = {
    "resume point half written": lambda: half_written(os, "fsync", 1),
    "resume point not renamed": lambda: die_at(os, "replace", 1),
    "resume point written": lambda: die_at(os, "replace", 1, after=True),
    "weights half written": lambda: half_written(os, "fsync", 3),
    "link to the last epoch removed": lambda: die_at(pathlib.Path, "symlink_to", 1),
    "first average half written": lambda: half_written(os, "fsync", 5),
    "second average not renamed": lambda: die_at(os, "replace", 4),
}


def kill_at(moment: str, corpus: Path, exp: Path) -> None:
    """Train in a process that ends at a moment."""
    child = os.fork()
    if child == 0:
        try:
            MOMENTS[moment]()
            train(corpus, exp, *EPOCHS)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED


@pytest.mark.parametrize("moment", MOMENTS)
def test_training_killed_in_an_epoch_goes_on_to_the_same_end(
    corpus, begun, straight, moment
):
    kill_at(moment, corpus, begun)
    train(corpus, begun, *EPOCHS)
    ends_as(begun, straight)
    assert not list(begun.glob(".*"))


def test_training_killed_in_its_first_epoch_begins_again(corpus, straight, tmp_path):
    kill_at("resume point half written", corpus, tmp_path / "exp")
    train(corpus, tmp_path / "exp", *EPOCHS)
    ends_as(tmp_path / "exp", straight)


@pytest.mark.parametrize("file", ["checkpoint.pth", "3epoch.pth", AVERAGE])
def test_full_disk_stops_training_and_room_lets_it_go_on(
    corpus, begun, straight, monkeypatch, file
):
    save = torch.save

    def full(obj, f, *args, **kwargs):
        if file in str(f):
            f.write_bytes(b"as much as there is room for")
            # What torch's writer raises, without a number.
            raise RuntimeError("PytorchStreamWriter failed writing file data/0")
        save(obj, f, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(CheckpointError, match=r"(?s)cannot be written.*make room"):
            train(corpus, begun, *EPOCHS)
    train(corpus, begun, *EPOCHS)
    ends_as(begun, straight)


def test_torch_save_is_itself_again_after_training(begun):
    assert torch.save.__module__ == "torch.serialization"
    assert not hasattr(torch.save, "__wrapped__")


def test_a_trainer_of_another_make_is_left_as_it_is():
    class Other:
        @classmethod
        def run(cls, model): ...

    Other.__module__ = trainer.__name__
    before, average = Other.run, trainer.average_nbest_models
    task: Any = SimpleNamespace(ASRTask=SimpleNamespace(trainer=Other))
    with pytest.raises(AttributeError, match="other arguments"):
        install_atomic_saving(task)
    assert Other.run == before
    assert trainer.average_nbest_models is average


def test_one_process_mends_and_all_are_stopped_by_a_damaged_resume_point(begun):
    (begun / "2epoch.pth").unlink()
    criteria = [("train", "total_count", "max")]
    options = SimpleNamespace(
        resume=True,
        output_dir=begun,
        keep_nbest_models=[2],
        best_model_criterion=criteria,
    )
    second = SimpleNamespace(distributed=True, dist_rank=1)
    look_through(options, second)
    assert not (begun / "2epoch.pth").exists()
    look_through(options, SimpleNamespace(distributed=True, dist_rank=0))
    assert (begun / "2epoch.pth").exists()
    cut(begun / "checkpoint.pth")
    with pytest.raises(CheckpointError, match="cannot go on"):
        look_through(options, second)


class TestDamage:
    """What is found before training goes on."""

    @pytest.mark.parametrize("damage", [cut, change_a_bit, Path.unlink])
    def test_last_weights_are_written_again(self, corpus, begun, straight, damage):
        damage(begun / "2epoch.pth")
        train(corpus, begun, *EPOCHS)
        ends_as(begun, straight)
        assert (begun / "2epoch.pth.damaged").exists() == (damage is not Path.unlink)

    @pytest.mark.parametrize("damage", [cut, change_a_bit])
    def test_older_weights_are_moved_aside_and_leave_the_average(
        self, corpus, begun, straight, caplog, damage
    ):
        options = (*EPOCHS, "--keep_nbest_models", "3")
        damage(begun / "1epoch.pth")
        train(corpus, begun, *options)
        assert "1epoch.pth is damaged" in caplog.text
        assert "averages leave it out" in caplog.text
        assert (begun / "1epoch.pth.damaged").exists()
        # The mean of two epochs, and called so.
        assert (begun / "train.total_count.ave.pth").resolve().name == AVERAGE
        expected = load(straight / AVERAGE)
        for key, value in load(begun / "train.total_count.ave.pth").items():
            torch.testing.assert_close(value, expected[key])

    def test_weights_of_another_model_leave_the_average(self, corpus, begun, caplog):
        torch.save({"encoder": torch.zeros(3)}, begun / "1epoch.pth")
        train(corpus, begun, *EPOCHS, "--keep_nbest_models", "3")
        assert "1epoch.pth holds other weights than checkpoint.pth" in caplog.text
        assert updates(begun) == UPDATES

    def test_weights_lost_during_training_leave_the_average(
        self, corpus, begun, caplog, monkeypatch
    ):
        average = trainer.average_nbest_models

        def lose_and_average(*args, **kwargs):
            (begun / "2epoch.pth").unlink()
            average(*args, **kwargs)

        monkeypatch.setattr(trainer, "average_nbest_models", lose_and_average)
        train(corpus, begun, *EPOCHS)
        assert "2epoch.pth is missing: averages leave it out" in caplog.text
        link = begun / "train.total_count.ave.pth"
        assert link.resolve().name == "3epoch.pth"

    @pytest.mark.parametrize("size", [0, 1000], ids=["empty", "cut"])
    def test_without_resume_point_the_command_is_named(
        self, corpus, begun, monkeypatch, size
    ):
        cut(begun / "checkpoint.pth", size)
        cut(begun / "2epoch.pth")
        before = sorted(path.name for path in begun.iterdir())
        monkeypatch.setattr("sys.argv", ["asr_train.py", "--config", "my train.yaml"])
        with pytest.raises(CheckpointError) as caught:
            train(corpus, begun, *EPOCHS)
        assert f"checkpoint.pth is damaged ({size:,} bytes" in str(caught.value)
        assert caught.value.remedy.endswith(
            "asr_train.py --config 'my train.yaml' "
            f"--init_param {begun / '1epoch.pth'} --output_dir {begun}_again"
        )
        assert sorted(path.name for path in begun.iterdir()) == before

    def test_optimizer_never_starts_afresh_in_silence(self, corpus, begun):
        """ESPnet itself would train from random weights on."""
        (begun / "checkpoint.pth").unlink()
        with pytest.raises(CheckpointError, match=r"cannot go on: .* is missing"):
            train(corpus, begun, *EPOCHS)
        states = {"model": load(begun / "2epoch.pth")}
        torch.save(states, begun / "checkpoint.pth")
        with pytest.raises(CheckpointError, match="it lacks optimizers, reporter"):
            train(corpus, begun, *EPOCHS)

    def test_command_of_the_error_begins_again_with_the_newest_weights(
        self, corpus, begun, monkeypatch
    ):
        newest = load(begun / "2epoch.pth")
        (begun / "checkpoint.pth").unlink()
        options = command(corpus, begun, *EPOCHS, "--optim_conf", "lr=0.0")
        monkeypatch.setattr(sys, "argv", [asr_train.__file__, *options])
        monkeypatch.setattr(settings, "in_force", ["decoder_conf.tail=0.4"])
        with pytest.raises(CheckpointError) as stopped:
            asr_train.main()
        said = stopped.value.remedy
        _, *words = shlex.split(
            said.removeprefix("start again from the newest weights: ")
        )
        assert words[:3] == ["-m", "espnet_hkd.run", "--set=decoder_conf.tail=0.4"]
        # As Python would in a process of its own.
        child = os.fork()
        if child == 0:
            try:
                run.main(words[2:])
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        again = begun.with_name("exp_again")
        assert updates(again) == UPDATES
        for key, value in load(again / "3epoch.pth").items():
            if "norm" not in key:
                torch.testing.assert_close(value, newest[key])

    def test_file_that_may_not_be_read_is_not_called_damaged(
        self, corpus, begun, monkeypatch
    ):
        def refuse(path, *args):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr("espnet_hkd.border.resume.zipfile.ZipFile", refuse)
        with pytest.raises(CheckpointError, match=r"(?s)cannot be read.*permissions"):
            train(corpus, begun, *EPOCHS)
        assert (begun / "2epoch.pth").exists()

    def test_links_to_the_best_are_set_again(self, corpus, begun):
        links = [begun / "latest.pth", begun / "train.total_count.best.pth"]
        for link in links:
            link.unlink()
            link.symlink_to("1epoch.pth")
        train(corpus, begun, *EPOCHS, "--max_epoch", "2")
        assert [link.resolve().name for link in links] == ["2epoch.pth"] * 2


class TestProgram:
    """`espnet-hkd resume`, which run.sh calls before stage 11."""

    def test_sound_experiment_needs_no_word(self, begun, capsys):
        resume.main([str(begun)])
        assert capsys.readouterr().out == ""

    def test_training_that_has_not_begun_needs_no_word(self, tmp_path, capsys):
        resume.main([str(tmp_path / "none")])
        assert capsys.readouterr().out == ""

    def test_mends_and_says_so(self, begun, capsys):
        (begun / "2epoch.pth").unlink()
        resume.main([str(begun)])
        said = f"{begun / '2epoch.pth'} was written again from checkpoint.pth\n"
        assert capsys.readouterr().out == said
        weights = load(begun / "2epoch.pth")
        for key, value in load(begun / "checkpoint.pth")["model"].items():
            assert torch.equal(weights[key], value)

    def test_names_what_the_average_will_lack(self, begun, capsys):
        (begun / "1epoch.pth").unlink()
        resume.main([str(begun)])
        said = capsys.readouterr().out
        assert "1epoch.pth is missing: the average for train.total_count" in said

    def test_stops_with_the_command_of_the_recipe(self, begun):
        cut(begun / "checkpoint.pth", 0)
        with pytest.raises(SystemExit) as caught:
            resume.main([str(begun), "--command", "./run.sh --ngpu 2"])
        assert (
            f"./run.sh --ngpu 2 --stage 11 --pretrained_model {begun / '2epoch.pth'} "
            f"--asr_exp {begun}_again"
        ) in str(caught.value)

    def test_reads_on_where_the_configuration_was_cut(self, begun, capsys):
        (begun / "config.yaml").write_text("best_model_criterion:\n- [train, [")
        cut(begun / "1epoch.pth")
        resume.main([str(begun)])
        assert "1epoch.pth is damaged" in capsys.readouterr().out
