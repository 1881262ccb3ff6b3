"""What ESPnet says while it is imported and nobody needs to read."""

from __future__ import annotations

import contextlib
import io


def import_attention() -> None:
    """Import ESPnet's attention without its line on standard error.

    It tells everyone that Flash Attention is missing. A model with `use_flash_attn`,
    the only one that would use it, warns again when it runs.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        import espnet2.legacy.nets.pytorch_backend.transformer.attention  # noqa: F401
