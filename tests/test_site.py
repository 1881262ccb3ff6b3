"""The documentation's site: builds without a warning, asks no other server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.recipe_material import REPOSITORY, TOOLS, load_program

pytestmark = pytest.mark.slow

# What a browser fetches by itself, by element.
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Fetches(HTMLParser):
    """Collects the addresses that a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        address = dict(attrs).get(FETCHED.get(tag, ""))
        if address and not (tag == "link" and dict(attrs).get("rel") == "canonical"):
            self.addresses.append(address)


def test_no_page_asks_another_server(site: Path):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        reader = Fetches()
        reader.feed(page.read_text(encoding="utf-8"))
        assert reader.addresses, page
        for address in reader.addresses:
            assert not re.match(r"(\w+:)?//", address), (page, address)
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(@import|url\()\s*[\"']?(\w+:)?//", text), sheet


def test_the_reference_shows_what_docstrings_say(site: Path):
    text = (site / "reference.html").read_text(encoding="utf-8")
    for name in ("from_pretrained", "Recognizer", "integrate_and_fire", "TeacherStore"):
        assert f".{name}" in text
    assert "Parameters:" in text or "Parameters</" in text


def test_pages_of_other_folders_link_to_each_other(site: Path):
    text = (site / "corpora" / "an4_hkd.html").read_text(encoding="utf-8")
    assert 'href="../recipes.html"' in text
    text = (site / "recipes.html").read_text(encoding="utf-8")
    assert 'href="benchmarks.html"' in text


def test_the_page_of_errors_has_message_and_remedy_of_each():
    pages = load_program(TOOLS / "site_pages.py")
    text = pages.errors_page()
    assert "### there is no audio file NAME\n" in text
    assert "- **remedy**: correct the path\n" in text
    kinds = set(pages.error_classes())
    assert kinds >= {"HKDError", "DataError", "CheckpointError", "StoreError"}
    # Nothing that the source raises with a message of its own is left out.
    source = "".join(p.read_text() for p in (REPOSITORY / "espnet_hkd").rglob("*.py"))
    written = len(re.findall(rf"\b(?:{'|'.join(kinds)})\(\n\s+f?\"", source))
    assert text.count("\n### ") >= 0.9 * written > 90


def test_a_link_to_a_file_that_is_not_there_is_an_error():
    pages = load_program(TOOLS / "site_pages.py")
    assert pages.link_pages("[a](../LICENSE)", "method.md") == "a"
    with pytest.raises(pages.PluginError, match="no docs/nowhere"):
        pages.link_pages("[a](nowhere.md)", "method.md")
