"""What all command lines share: how options are spelled, and how a program ends."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from espnet_hkd.errors import HKDError


class _HelpFormatter(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Shows defaults, and the description with its line breaks."""


class Parser(argparse.ArgumentParser):
    """A parser of options spelled as ESPnet's: `--batch_seconds`.

    `--batch-seconds` is accepted, too. Options cannot be abbreviated.

    Args:
        prog: The name in the usage and before errors.
        description: Usually the docstring of the program's module.
    """

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse with hyphens inside option names read as underscores."""
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        options = [_with_underscores(argument) for argument in given[:end]]
        return super().parse_known_args([*options, *given[end:]], namespace)

    @contextmanager
    def report_errors(self) -> Iterator[None]:
        """End the program with status 1 and our error's text on standard error.

        A reader that has had enough, such as `head`, ends it in silence. What the
        encoding of standard output lacks is written as `\\u4f60`.
        """
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            yield
            sys.stdout.flush()
        except HKDError as error:
            sys.exit(f"{self.prog}: {error}")
        except BrokenPipeError:
            # Python flushes standard output once more at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)


class Switch(argparse.BooleanOptionalAction):
    """An action for `--name` and `--no_name`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any):
        super().__init__(option_strings, dest, **kwargs)
        self.option_strings = [_with_underscores(name) for name in self.option_strings]

    def __call__(self, parser, namespace, values, option_string=None):
        """Set the option; argparse calls it."""
        setattr(namespace, self.dest, not str(option_string).startswith("--no_"))


def positive(text: str) -> int:
    """The type of an option that is a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


def _with_underscores(argument: str) -> str:
    """`--batch-size=3` as `--batch_size=3`; what is no option stays as it is."""
    if not (name := re.match(r"--[\w-]+(?=$|=)", argument)):
        return argument
    return f"--{name[0][2:].replace('-', '_')}{argument[name.end() :]}"
