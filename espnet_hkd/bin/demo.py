"""Open a page in the browser to try models: speak, or upload a recording.

    python -m espnet_hkd.bin.demo MODEL.zip

The page is served to this machine only. It wants the extra `page`
(pip install "espnet_hkd[page]").
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


class _Help(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    pass


def get_parser() -> argparse.ArgumentParser:
    """The command line, with defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_hkd.bin.demo", description=__doc__, formatter_class=_Help
    )
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help="packed models (.zip), folders, or hub names; none: the packed AN4 model",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860, help="of the page")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--minutes", type=float, default=90.0, help="the longest recording taken"
    )
    parser.add_argument(
        "--megabytes", type=int, default=500, help="the largest file taken"
    )
    return parser


def packed_an4() -> str:
    """Where the AN4 recipe's packed model lies.

    Raises:
        DataError: It is not there.
    """
    from espnet_hkd.errors import DataError

    package = Path(__file__).resolve().parent.parent
    path = package.parent / "egs2" / "an4_hkd" / "asr1" / "pretrained" / "an4_hkd.zip"
    if not path.is_file():
        raise DataError(
            "there is no packed AN4 model",
            got=f"no {path}",
            wanted="a clone of the repository",
            remedy="name a model: espnet-hkd demo MODEL.zip",
        )
    return str(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = get_parser().parse_args(arguments)
    from espnet_hkd.demo.server import serve
    from espnet_hkd.errors import HKDError

    try:
        serve(
            args.models or [packed_an4()],
            host=args.host,
            port=args.port,
            device=args.device,
            minutes=args.minutes,
            megabytes=args.megabytes,
        )
    except HKDError as error:
        sys.exit(f"demo: {error}")


if __name__ == "__main__":
    main()
