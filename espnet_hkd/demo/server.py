"""Serve the page to this machine, so that no request leaves it."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from espnet_hkd.errors import ConfigError, DataError
from espnet_hkd.recipes.copy import recipes

LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Read by Gradio when it is imported, or on each call.
ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# What a browser may fetch: this server's own files, and what the page itself holds.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' "
    "blob:; style-src 'self' 'unsafe-inline'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'"
)


class ContentPolicy:
    """ASGI middleware: every answer forbids the browser to ask another server.

    Gradio's page names servers of fonts and scripts; a browser does not reach them.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message.get("headers", []), header]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def serve(
    names: list[str],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "cpu",
    minutes: float = 90.0,
    megabytes: int = 500,
    block: bool = True,
) -> Any:
    """Open the models and serve the page until it is stopped.

    Args:
        names: Packed models, folders or hub names; the first is chosen.
        host: Address to listen on.
        port: Of the server.
        device: As for torch.
        minutes: The longest recording taken.
        megabytes: The largest file taken.
        block: Return only when the server has ended; else at once, with a function
            that stops it.

    Raises:
        ConfigError: The port is taken, or the host is none of this machine's.
        DataError: Gradio is not installed.
        CheckpointError: A model cannot be opened.
    """
    check_port(host, port)
    uploads = tempfile.TemporaryDirectory(prefix="espnet_hkd_page_")
    os.environ.update(ENVIRONMENT)
    os.environ["GRADIO_TEMP_DIR"] = uploads.name
    # Gradio asks itself whether it is up; a proxy would not know.
    around = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    os.environ["NO_PROXY"] = ",".join(filter(None, (around, *LOOPBACK)))
    try:
        from gradio.themes import Default
    except ImportError as error:
        raise DataError(
            "the page needs Gradio",
            got=f"{type(error).__name__}: {error}",
            wanted="the extra `page`",
            remedy='pip install "espnet_hkd[page]"',
        ) from error
    from starlette.middleware import Middleware

    import espnet_hkd
    from espnet_hkd.demo import html
    from espnet_hkd.demo.page import Page

    models = {
        label: espnet_hkd.from_pretrained(name, device=device)
        for label, name in labels(names).items()
    }
    pages = Page(models, minutes=minutes)
    page = pages.build()
    fonts = ["system-ui", "sans-serif"]
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        theme=Default(
            primary_hue="indigo", font=fonts, font_mono=["ui-monospace", "monospace"]
        ),
        css=html.STYLE,
        head=f"<script>{html.SCRIPT}</script>",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        max_file_size=f"{megabytes}mb",
        app_kwargs={"middleware": [Middleware(ContentPolicy)]},
    )
    print(f"The page is at http://{host}:{port} ; Ctrl-C ends it.", flush=True)
    if host not in LOOPBACK:
        print("Everyone who reaches this address can use it.", flush=True)

    def stop() -> None:
        # PyTorch aborts a program that ends while it calculates.
        pages.end()
        page.close(verbose=False)
        uploads.cleanup()

    if not block:
        return stop
    # What ends a service ends it as Ctrl-C does: uploads go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        page.block_thread()
    finally:
        stop()
    return None


def check_port(host: str, port: int) -> None:
    """Check that a port can be listened on.

    Raises:
        ConfigError: It cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the server will, past connections that are still closing.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EADDRINUSE:
            wanted = "a port that nothing uses"
            remedy = f"--port {port % 65535 + 1}, or end the program that uses it"
        elif number == errno.EACCES or number is None:
            wanted, remedy = "a port from 1024 to 65535", "--port 7860"
        else:
            wanted = "an address of this machine"
            remedy = "--host 127.0.0.1 for this machine alone, 0.0.0.0 for its network"
        raise ConfigError(
            f"the page cannot listen on {host}, port {port}",
            got=str(error),
            wanted=wanted,
            remedy=remedy,
        ) from error


def packed_an4() -> str:
    """The packed model of the AN4 recipe, which comes with the package.

    Raises:
        DataError: It is not there.
    """
    path = recipes().get("an4_hkd", Path()) / "pretrained" / "an4_hkd.zip"
    if not path.is_file():
        raise DataError(
            "there is no packed AN4 model",
            got=f"no {path}",
            wanted="the model that the package brings along",
            remedy="name a model: espnet-hkd demo MODEL.zip",
        )
    return str(path)


def labels(names: list[str]) -> dict[str, str]:
    """Short names for the chooser, distinct: the file's, else all that was given."""
    short = [Path(name).stem for name in names]
    return {
        stem if short.count(stem) == 1 else name: name
        for stem, name in zip(short, names, strict=True)
    }
