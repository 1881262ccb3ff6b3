"""Hooks of mkdocs: pages of the site that do not stand in docs/.

The recipes' READMEs, the benchmarks' results and the changes are read where they are,
with their links turned to the site's pages. The page of errors is made from the places
that raise them, so that it lists every message there is.
"""

from __future__ import annotations

import ast
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

REPOSITORY = Path(__file__).resolve().parent.parent
# Where a page of the site is read from, by where it stands on the site.
ELSEWHERE = {
    "benchmarks.md": "benchmarks/RESULTS.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    **{
        f"corpora/{path.parts[-3]}.md": path.relative_to(REPOSITORY).as_posix()
        for path in sorted(REPOSITORY.glob("egs2/*/asr1/README.md"))
    },
}
ERRORS = "errors.md"
LINK = re.compile(r"(?<!!)\[([^]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that stand elsewhere."""
    for page, source in ELSEWHERE.items():
        text = (REPOSITORY / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, ERRORS, content=errors_page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository to links between pages."""
    return link_pages(markdown, page.file.src_uri)


def link_pages(markdown: str, page: str) -> str:
    """Turn the links of one page; a file without a page leaves the link's text.

    Args:
        markdown: As it stands in the repository.
        page: Where it stands on the site.

    Raises:
        PluginError: The repository has no file that a link names.
    """
    pages = {source: page for page, source in ELSEWHERE.items()}
    source = ELSEWHERE.get(page, f"docs/{page}")

    def turn(match: re.Match[str]) -> str:
        text, link, anchor = match[1], match[2], match[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        folder = (REPOSITORY / target).is_dir()
        if folder and (REPOSITORY / target / "README.md").is_file():
            target += "/README.md"
        on_site = pages.get(target)
        if on_site is None and target.startswith("docs/"):
            on_site = target.removeprefix("docs/")
        there = os.path.lexists(REPOSITORY / target) or on_site == ERRORS
        if not there:
            raise PluginError(f"{source} links to {link}, and there is no {target}")
        if on_site is not None:
            start = posixpath.dirname(page) or "."
            return f"[{text}]({posixpath.relpath(on_site, start)}{anchor})"
        return text

    return LINK.sub(turn, markdown)


class Message(NamedTuple):
    """One place of the package that raises an error."""

    kind: str
    problem: str
    got: str | None
    wanted: str | None
    remedy: str | None


def errors_page() -> str:
    """Every error a user can cause, by class and message."""
    classes = error_classes()
    lines = [
        "---",
        "hide: [toc]",
        "---",
        "# Errors and remedies",
        "",
        "Every error that a user can cause, as the source has it; words in capitals "
        "stand for what the message names at run time. Search this page, or the site, "
        "for words of the message. All are `espnet_hkd.errors.HKDError`, so one "
        "`except` catches them; the commands print them and end with a status that "
        "is not 0.",
    ]
    messages = {message: None for message in raised(set(classes))}
    for kind, explanation in classes.items():
        of_kind = sorted(
            (m for m in messages if m.kind == kind), key=lambda m: m.problem.lower()
        )
        if not of_kind:
            continue
        lines += ["", f"## {kind}", "", explanation]
        for message in of_kind:
            lines += ["", f"### {plain(message.problem)}", ""]
            lines += [
                f"- **{label}**: {plain(value)}"
                for label, value in zip(
                    ("got", "wanted", "remedy"), message[2:], strict=True
                )
                if value is not None
            ]
    return "\n".join(lines) + "\n"


def error_classes() -> dict[str, str]:
    """Name and first docstring line of each error class, most general first."""
    tree = ast.parse((REPOSITORY / "espnet_hkd/errors.py").read_text(encoding="utf-8"))
    return {
        node.name: (ast.get_docstring(node) or "").partition("\n")[0]
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def raised(kinds: set[str]) -> Iterator[Message]:
    """The errors that the package makes, as its source has them."""
    for path in sorted((REPOSITORY / "espnet_hkd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            kind = getattr(node.func, "id", None)
            problem = in_words(node.args[0])
            if kind not in kinds or problem is None:
                continue
            said = {k.arg: in_words(k.value) for k in node.keywords if k.arg}
            rest = (said.get(label) for label in ("got", "wanted", "remedy"))
            yield Message(kind, problem, *rest)


def in_words(node: ast.expr) -> str | None:
    """A message with its names in capitals; None for what only run time knows."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(
                str(part.value) if isinstance(part, ast.Constant) else place(part)
                for part in parts
            )
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            both = (in_words(left), in_words(right))
            return None if None in both else "".join(map(str, both))
        case ast.IfExp(body=body, orelse=other):
            both = [each for each in map(in_words, (body, other)) if each]
            return ", or ".join(both) or None
    return None


def place(node: ast.expr) -> str:
    """What stands for a value in a message: its name in capitals, else dots."""
    match node:
        case ast.FormattedValue(value=value):
            return place(value)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_").upper().replace("_", " ")
        case ast.Call(func=ast.Name(id="repr" | "str" | "len"), args=[value]):
            return place(value)
    return "..."


def plain(text: str) -> str:
    """Text that Markdown leaves as it is, on one line; what is in backticks is code."""
    parts = " ".join(text.split()).split("`")
    if len(parts) % 2 == 0:
        parts = ["\\`".join(parts)]
    parts[::2] = [re.sub(r"([\\*_{}\[\]<>#|])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)
