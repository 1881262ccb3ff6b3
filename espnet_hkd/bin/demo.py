"""Open a page in the browser to try models: speak, or upload a recording.

    espnet-hkd demo MODEL.zip

The page is served to this machine only. It wants the extra `page`
(pip install "espnet_hkd[page]").
"""

from __future__ import annotations

from collections.abc import Sequence

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd demo", __doc__)
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help="packed models (.zip), folders, or hub names; None: the packed AN4 model",
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.demo.server import packed_an4, serve

    with parser.report_errors():
        serve(
            args.models or [packed_an4()],
            host=args.host,
            port=args.port,
            device=args.device,
            minutes=args.minutes,
            megabytes=args.megabytes,
        )


if __name__ == "__main__":
    main()
