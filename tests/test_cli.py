"""The command line: one spelling of options, light help, quiet ends."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from espnet_hkd import cli
from espnet_hkd.bin.command import Parser, Switch
from espnet_hkd.errors import ConfigError
from tests.recipe_material import REPOSITORY

MODULES = {
    f"espnet_hkd.bin.{path.stem}"
    for path in (REPOSITORY / "espnet_hkd" / "bin").glob("*.py")
} - {"espnet_hkd.bin.__init__", "espnet_hkd.bin.command"}

HELP = """
import io, runpy, sys
from contextlib import redirect_stdout

import espnet_hkd.cli as cli

def help_of(call, *arguments):
    with redirect_stdout(io.StringIO()) as shown:
        try:
            call(*arguments)
        except SystemExit as end:
            assert not end.code, end.code
    return shown.getvalue()

assert all(name in help_of(cli.main, ["--help"]) for name in cli.COMMANDS)
for name, module in cli.COMMANDS.items():
    assert help_of(cli.main, [name, "--help"]).startswith(f"usage: espnet-hkd {name} ")
    del sys.modules[module]
    sys.argv = [module, "--help"]
    assert f"espnet-hkd {name} " in help_of(
        lambda: runpy.run_module(module, run_name="__main__", alter_sys=False)
    )
sys.argv = ["run", "--help"]
help_of(lambda: runpy.run_module("espnet_hkd.run", run_name="__main__"))
heavy = {"torch", "espnet", "espnet2", "numpy", "transformers", "matplotlib",
         "soundfile"}
print(sorted(heavy & set(sys.modules)))
"""


def test_help_of_every_command_names_it_and_loads_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", HELP], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_program_of_bin_is_a_subcommand():
    assert set(cli.COMMANDS.values()) >= MODULES


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_options_are_spelled_with_underscores_and_defaults_are_shown(name: str):
    parser = importlib.import_module(cli.COMMANDS[name]).get_parser()
    words = parser.format_help().split()
    options = {word.strip("[],").partition("=")[0] for word in words}
    long = {word for word in options if word.startswith("--")}
    assert "--help" in long
    assert [word for word in long if "-" in word[2:]] == []


def test_an_unknown_subcommand_is_named_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["recognise", "model.zip"])
    assert "got:    recognise" in str(end.value)
    assert "did you mean `espnet-hkd recognize`?" in str(end.value)


@pytest.mark.parametrize("name", ["inspect-model", "inspect_model"])
def test_both_spellings_of_a_subcommand_run_it(name: str):
    with pytest.raises(
        SystemExit, match=r"^espnet-hkd inspect-model: (.|\n)*none\.zip"
    ):
        cli.main([name, "none.zip"])


def make_parser() -> Parser:
    parser = Parser("espnet-hkd try", "Try.")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--batch_seconds", type=float, default=60.0)
    parser.add_argument("--early_eos", action=Switch)
    parser.add_argument("--asr_args", default="")
    return parser


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["--batch_seconds", "3"], {"batch_seconds": 3.0}),
        (["--batch-seconds", "3"], {"batch_seconds": 3.0}),
        (["--batch-seconds=3"], {"batch_seconds": 3.0}),
        (["--early-eos"], {"early_eos": True}),
        (["--no-early-eos"], {"early_eos": False}),
        (["--no_early_eos"], {"early_eos": False}),
        # Values stay as they are, even those that look like options.
        (["--asr-args", "--opt-a b-c=d-e"], {"asr_args": "--opt-a b-c=d-e"}),
        (["--asr_args=--a-b=c-d"], {"asr_args": "--a-b=c-d"}),
        (["a-b", "--", "--c-d"], {"words": ["a-b", "--c-d"]}),
    ],
    ids=" ".join,
)
def test_hyphens_in_options_are_accepted(arguments, changed):
    plain = vars(make_parser().parse_args([]))
    assert vars(make_parser().parse_args(arguments)) == plain | changed


def test_options_are_not_abbreviated(capsys):
    with pytest.raises(SystemExit) as end:
        make_parser().parse_args(["--batch", "3"])
    assert end.value.code == 2
    assert "unrecognized arguments: --batch" in capsys.readouterr().err


def test_our_errors_end_a_program_with_their_text_and_others_pass():
    with (
        pytest.raises(SystemExit, match=r"^espnet-hkd try: wrong\n  got:    1\n"),
        make_parser().report_errors(),
    ):
        raise ConfigError("wrong", got=1, wanted=2, remedy="write 2")
    with pytest.raises(ValueError, match="ours"), make_parser().report_errors():
        raise ValueError("a fault of ours")


def test_a_reader_that_stops_ends_a_program_in_silence():
    code = (
        "from espnet_hkd.bin.command import Parser\n"
        "with Parser('x', 'X.').report_errors():\n"
        "    for number in range(100_000): print(number)\n"
    )
    command = f'{sys.executable} -c "$CODE" | head -n 1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command],
        env={"CODE": code, "PATH": "/usr/bin:/bin"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("0\n1\n", "")
