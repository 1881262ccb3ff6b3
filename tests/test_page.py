"""The page of `espnet-hkd demo`, used as a person uses it, in a browser."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

import espnet_hkd
from espnet_hkd.cli import main
from espnet_hkd.demo.html import show
from espnet_hkd.demo.server import LOOPBACK, check_port, labels
from espnet_hkd.demo.transcribe import Options, packed_options, transcribe
from espnet_hkd.errors import ConfigError
from tests.recipe_material import RECIPE, run

pytestmark = pytest.mark.slow

MODEL = RECIPE / "pretrained" / "an4_hkd.zip"
# Longer than any step takes on a machine that does other work, too.
PATIENCE = 180
# Of the second model.
TAIL, CTC_WEIGHT = 0.85, 0.15
# Starts the page and writes down every address that this process asks for.
WATCHED = """
import sys
log = open(sys.argv.pop(1), "a", buffering=1)
def watch(event, arguments):
    if event == "socket.connect":
        log.write(f"{arguments[1]!r}\\n")
    elif event == "socket.getaddrinfo":
        log.write(f"{arguments[:1]!r}\\n")
sys.addaudithook(watch)
from espnet_hkd.cli import main
main(sys.argv[1:])
"""


def write_other(path: Path) -> Path:
    """The same model with other options of decoding."""
    with zipfile.ZipFile(MODEL) as packed, zipfile.ZipFile(path, "w") as changed:
        for name in packed.namelist():
            content = packed.read(name)
            if name.endswith("config.yaml"):
                config = yaml.safe_load(content)
                config["decoder_conf"]["tail"] = TAIL
                config["inference_conf"] = {"ctc_weight": CTC_WEIGHT}
                content = yaml.safe_dump(config).encode()
            changed.writestr(name, content)
    return path


class Server:
    """A page that runs in a process of its own."""

    def __init__(self, folder: Path) -> None:
        other = write_other(folder / "other.zip")
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.asked = folder / "asked"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        arguments = ["demo", MODEL, other, "--port", self.port, "--minutes", 1]
        with open(folder / "log", "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WATCHED, *map(str, (self.asked, *arguments))],
                env={
                    **os.environ,
                    "TMPDIR": str(self.temporary),
                    "OMP_NUM_THREADS": "1",
                    # Nothing listens there: whoever asks it fails, and is seen.
                    "HTTP_PROXY": "http://192.0.2.1:9",
                    "HTTPS_PROXY": "http://192.0.2.1:9",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise

    def wait(self) -> None:
        until = time.monotonic() + PATIENCE
        while "The page is at" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.2)

    def uploads(self) -> list[Path]:
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("page"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    assert program, "this test wants the package chromium: tools/setup.sh"
    assert driver, "this test wants the package chromium-driver: tools/setup.sh"
    options.binary_location = program
    for argument in (
        "--headless=new",
        # As root, and in containers with little shared memory.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        # The browser's own business.
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--window-size=1280,1000",
    ):
        options.add_argument(argument)
    saved = {"download.default_directory": str(downloads)}
    options.add_experimental_option("prefs", saved)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    # Else a page that takes 120 s to open, or a driver that does, counts as lost.
    chrome.command_executor.client_config.timeout = PATIENCE
    chrome.set_page_load_timeout(PATIENCE)
    yield chrome
    chrome.quit()


def wait(browser: webdriver.Chrome, ready: Callable[[Any], Any]) -> Any:
    return WebDriverWait(browser, PATIENCE, 0.1).until(ready)


def find(browser: webdriver.Chrome, selector: str) -> list[Any]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    """What can be read there by now."""
    return [each.text.strip("\u2713 \n") for each in find(browser, selector)]


def upload(browser: webdriver.Chrome, server: Server, audio: Path) -> None:
    """Open the page anew and give it a file."""
    browser.get(server.address)
    inside = "#recording input[type=file]"
    wait(browser, lambda b: find(b, inside))[0].send_keys(str(audio))
    # The file's name or player stands where the input was.
    wait(browser, lambda b: not find(b, inside) or find(b, "#recording audio"))


def press(browser: webdriver.Chrome) -> None:
    find(browser, "#transcribe")[0].click()


def result(browser: webdriver.Chrome) -> str:
    """The text of the result, once it is there."""
    said = "#result .hkd-words, #result .hkd-error"
    # An element has no text until it is drawn.
    return wait(browser, lambda b: "".join(texts(b, said)))


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence of AN4's words."""
    path = tmp_path_factory.mktemp("audio") / "spoken words.wav"
    done = run(
        "espeak-ng", "-v", "en-us", "-s", "120", "-w", path, "one two three four"
    )
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def recognizer():
    return espnet_hkd.from_pretrained(str(MODEL))


def test_a_file_is_transcribed_and_a_click_on_a_word_plays_from_there(
    server, browser, spoken, recognizer, downloads
):
    (expected,) = recognizer(spoken)
    upload(browser, server, spoken)
    press(browser)
    assert result(browser).split() == expected.text.split()

    words = find(browser, "#result .hkd-word")
    last = words[-1]
    # Played as fast as it goes, the time is soon past the word's start.
    last.click()
    start = float(last.get_attribute("data-start"))
    assert start == pytest.approx(expected.words[-1].start, abs=2e-3)
    time_now = "return document.querySelector('#result audio').currentTime"
    at = wait(browser, lambda b: b.execute_script(time_now))
    assert start - 0.05 <= at

    image = wait(browser, lambda b: find(b, "#picture img"))[0]
    wide = "return arguments[0].naturalWidth"
    assert wait(browser, lambda b: b.execute_script(wide, image)) > 300

    for kind in ("srt", "json"):
        wait(browser, lambda b, k=kind: find(b, f"#as-{k}"))[0].click()
        file = downloads / f"{spoken.stem}.{kind}"
        wait(browser, lambda _, f=file: f.is_file() and f.stat().st_size)
        text = file.read_text(encoding="utf-8")
        if kind == "json":
            assert json.loads(text)["text"] == expected.text
        else:
            assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n", text)


def test_the_model_can_be_chosen(server, browser, recognizer):
    browser.get(server.address)
    wait(browser, lambda b: find(b, "#decode button"))[0].click()
    wait(browser, lambda b: find(b, "#tail input[type=number]"))
    wait(browser, lambda b: find(b, "#model input"))[0].click()
    choices = "[role=option]"
    wait(browser, lambda b: texts(b, choices) == ["an4_hkd", "other"])

    # With it come the options that it was packed with.
    def options(b: webdriver.Chrome) -> list[float]:
        inside = "return document.querySelector('#{} input[type=number]').value"
        return [float(b.execute_script(inside.format(n))) for n in ("tail", "ctc")]

    packed = packed_options(recognizer)
    assert options(browser) == pytest.approx([packed.tail, packed.ctc_weight])
    find(browser, choices)[1].click()
    wait(browser, lambda b: options(b) == pytest.approx([TAIL, CTC_WEIGHT]))


@pytest.mark.parametrize(
    ("name", "seconds", "message"),
    [
        ("silence", 2.0, "No speech was found"),
        ("nothing", 0.0, "No speech was found"),
        ("an hour, nearly", 61.0, "the recording is too long"),
    ],
)
def test_what_holds_no_speech_or_too_much_is_told(
    name, seconds, message, server, browser, tmp_path
):
    audio = tmp_path / f"{name}.wav"
    soundfile.write(audio, np.zeros(int(16000 * seconds)), 16000)
    upload(browser, server, audio)
    press(browser)
    assert message in result(browser)


def test_what_is_not_audio_is_told(server, browser, tmp_path):
    audio = tmp_path / "letter.wav"
    audio.write_text("Dear Sir or Madam")
    upload(browser, server, audio)
    press(browser)
    text = result(browser)
    assert "cannot be read as audio" in text
    assert "remedy" in text
    # Not by the long path of an upload.
    assert text.startswith("letter.wav ")


def test_two_people_at_once_get_an_answer_each(server, browser, spoken):
    first = browser.current_window_handle
    upload(browser, server, spoken)
    browser.switch_to.new_window("tab")
    upload(browser, server, spoken)
    press(browser)
    second = browser.current_window_handle
    browser.switch_to.window(first)
    press(browser)
    texts = []
    for window in (first, second):
        browser.switch_to.window(window)
        texts.append(result(browser))
    browser.close()
    browser.switch_to.window(first)
    assert texts[0] == texts[1] != ""


def test_no_request_leaves_this_machine(server, browser, spoken):
    upload(browser, server, spoken)
    press(browser)
    result(browser)
    sent = [json.loads(entry["message"]) for entry in browser.get_log("performance")]
    addresses = {
        entry["message"]["params"]["request"]["url"]
        for entry in sent
        if entry["message"]["method"] == "Network.requestWillBeSent"
    }
    assert any(address.startswith(server.address) for address in addresses)
    for address in addresses:
        assert address.startswith((server.address, "data:", "blob:")), address
    # And what the server itself asked for.
    asked = server.asked.read_text().splitlines()
    assert asked
    for line in asked:
        host = re.match(r"\((?:b?'([^']*)'|None)", line)
        assert host, line
        assert host[1] in (None, *LOOPBACK) or is_loopback(host[1]), line
    with urllib.request.urlopen(server.address) as answer:
        policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def test_a_port_in_use_is_named_with_the_remedy(server):
    with pytest.raises(ConfigError, match=f"port {server.port}") as raised:
        check_port("127.0.0.1", server.port)
    assert f"--port {server.port + 1}" in str(raised.value)


@pytest.mark.parametrize(
    ("host", "port", "remedy"),
    [
        ("127.0.0.1", 99999, "--port 7860"),
        ("127.0.0.1", -1, "--port 7860"),
        # Of a block that is kept for documentation.
        ("192.0.2.1", 7860, "--host 127.0.0.1"),
        ("no host", 7860, "--host 127.0.0.1"),
    ],
)
def test_what_cannot_be_listened_on_is_named_with_the_remedy(host, port, remedy):
    with pytest.raises(ConfigError, match=f"{host}, port {port}") as raised:
        check_port(host, port)
    assert f"remedy: {remedy}" in str(raised.value)


# The last one: it stops the server.
def test_uploads_are_gone_when_the_page_ends_be_it_in_the_middle(
    server, browser, spoken, tmp_path
):
    speech, rate = soundfile.read(spoken)
    audio = tmp_path / "a minute.wav"
    soundfile.write(audio, np.tile(speech, int(59 * rate / len(speech))), rate)
    upload(browser, server, audio)
    # A minute takes a while to arrive; then a player stands there.
    wait(browser, lambda b: find(b, "#recording audio, #recording .waveform-container"))
    assert any(path.name == audio.name for path in server.uploads())
    press(browser)
    wait(browser, lambda b: "recognising" in texts(b, "#result")[0])
    server.stop()
    assert server.process.returncode == 0
    assert server.uploads() == []
    # The address and a word on the recording without a sample are all there is to read.
    first, *others = server.log.read_text().splitlines()
    assert re.fullmatch(r"The page is at .* ends it\.", first)
    assert {line for line in others if "0 samples are too short" not in line} == set()


def test_a_long_recording_says_how_far_it_is_and_its_times_go_on(
    recognizer, spoken, tmp_path
):
    speech, rate = soundfile.read(spoken)
    pause = np.zeros(31 * rate)
    audio = tmp_path / "long.wav"
    soundfile.write(audio, np.concatenate([speech, pause, pause, pause, speech]), rate)
    seconds = []
    got = transcribe(recognizer, audio, Options(1, 0.0, 0.5), seconds.append)
    (whole,) = recognizer(audio, beam=1, ctc_weight=0.0, tail=0.5)
    assert len(seconds) >= 4
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(soundfile.info(audio).duration, abs=0.01)
    assert got.text == whole.text != ""
    for mine, theirs in ((got.tokens, whole.tokens), (got.words, whole.words)):
        starts = [each.start for each in theirs]
        assert [each.start for each in mine] == pytest.approx(starts)
    assert got.words[-1].start > 3 * 31


def test_what_words_hold_is_no_html():
    class Word:
        word, start, end, confidence = "<b>", 0.0, 0.5, 0.25

    text = show([Word()], "/tmp/a b'.wav")
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert "a%20b%27.wav" in text


def test_models_of_one_name_are_told_apart():
    assert labels(["a/x.zip", "b/y.zip"]) == {"x": "a/x.zip", "y": "b/y.zip"}
    assert list(labels(["a/x.zip", "b/x.zip"])) == ["a/x.zip", "b/x.zip"]


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio.themes", None)
    with pytest.raises(SystemExit) as end:
        main(["demo", str(MODEL), "--port", "0"])
    assert "espnet_hkd[page]" in str(end.value)
