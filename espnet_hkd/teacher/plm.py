"""A Hugging Face model as teacher: text -> piece states and character spans.

Any encoder or decoder-only model with a fast tokenizer. Weights are read from
safetensors only, and no code that comes with a model is ever run.

A batch holds texts of equal length only, so nothing is padded. On one thread of a CPU a
matrix product sums each row alike whatever the other rows are, as long as there are
enough of them (`PRODUCT_ROWS`); the last short texts of a length are read several times
to make them up. Several threads share a product in ways that depend on its size, so
each batch is read by one thread, and as many batches at a time as PyTorch has threads.
A GPU chooses its kernel by the number of rows, so there every batch is of eight. So a
text's states depend on nothing but the text, and few texts are read in vain. Another
device may round the last bit otherwise.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_hkd.checks import is_number
from espnet_hkd.errors import PLMError
from espnet_hkd.teacher.align import END_SPAN
from espnet_hkd.teacher.gguf import quantisation
from espnet_hkd.teacher.locate import find_plm, missing_transformers, plm_digest
from espnet_hkd.teacher.offsets import (
    check_coverage,
    extend_over_marks,
    with_whole_offsets,
)
from espnet_hkd.teacher.windows import Window, windows

# Rows (texts times pieces) of a product on a CPU. With fewer than 16 the common library
# sums in another order, which changes the last bit; twice that is on the safe side.
PRODUCT_ROWS = 32
# Texts that a GPU reads at once.
GPU_BATCH = 8
# A tokenizer without a limit of its own states one of about 1e30.
_NO_LIMIT = 1 << 40


@dataclass(frozen=True)
class Pieces:
    """A text as the PLM reads it.

    Attributes:
        ids: (L,) piece numbers, special ones included.
        types: (L,) segment numbers.
        begin: First text piece; those before are special.
        end: One past the last text piece; those from here on are special.
        spans: (end - begin, 2) characters of each text piece.
    """

    ids: np.ndarray
    types: np.ndarray
    begin: int
    end: int
    spans: np.ndarray


def load_plm(
    name: str, *, layer: int | None = None, lower: bool = False, device: str = "cpu"
) -> PLM:
    """Load a teacher.

    Args:
        name: A folder, an installed package that carries a model, or a hub name.
        layer: Layer whose output is taken, 0 for the embeddings, -1 or None the last.
        lower: Read the texts in lower case.
        device: Where the model runs, as PyTorch names it.

    Raises:
        PLMError: It is not there, is not whole, has no fast tokenizer, is not an
            encoder or decoder, or has no such layer; or transformers is missing.
    """
    try:
        import transformers
    except ImportError as error:
        raise missing_transformers(error) from error
    folder = find_plm(name)
    with _quiet(transformers):
        tokenizer = _load_tokenizer(transformers, name, folder)
        model = _load_model(transformers, name, folder)
    try:
        model = model.to(device)
    except (AssertionError, RuntimeError) as error:
        raise PLMError(
            f"The PLM {name} cannot run on {device!r}.",
            got=str(error).splitlines()[0],
            wanted="cpu, or cuda where there is a GPU with enough memory",
            remedy="correct --device",
        ) from error
    plm = PLM(name, plm_digest(folder), tokenizer, model, layer=layer, lower=lower)
    plm.quantisation = quantisation(folder)
    return plm


class PLM:
    """A teacher; `load_plm` makes one.

    Attributes:
        name, digest: As a store records them.
        layer: Layer whose output the states are.
        width: E.
        limit: Longest input, special pieces included.
        quantisation: How its weights were stored in GGUF, or None.
    """

    quantisation: str | None = None

    def __init__(
        self,
        name: str,
        digest: str,
        tokenizer: Any,
        model: Any,
        *,
        layer: int | None = None,
        lower: bool = False,
    ) -> None:
        self.name = name
        self.digest = digest
        self.lower = lower
        self._model = model.eval()
        self._tokenizer = with_whole_offsets(tokenizer.backend_tokenizer)
        # Texts are never cut, and "[SEP]" in a transcript is five characters of text.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._unknown = tokenizer.unk_token_id
        self._typed = "token_type_ids" in tokenizer.model_input_names
        self._device = next(model.parameters()).device
        self._on_cpu = self._device.type == "cpu"
        self._vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self.layer = self._layer_number(layer)
        self.limit = _limit(name, tokenizer, model)
        self._begin = 0
        probe = self.pieces("a")
        self._begin = probe.begin
        self._specials = len(probe.ids) - len(probe.spans)
        if self.limit - self._specials < 2:
            raise PLMError(
                f"The PLM {name} reads {self.limit} pieces at once, too few.",
                got=f"{self._specials} of them special",
                wanted="room for two text pieces at least",
                remedy="choose another PLM",
            )
        one = np.zeros(1, dtype=np.int64)
        self.width = self._run([one], [one]).shape[-1]

    def pieces(self, text: str) -> Pieces:
        """Cut a canonical text.

        A span covers no white space at its ends. It is empty, at the piece's first
        character, where nothing is left, and for a piece the PLM does not know.
        """
        return self._cut([text])[0]

    def read(
        self, texts: Sequence[str], *, batch_size: int = 32
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Read canonical texts, those of equal length together.

        Yields:
            Index of a text, its states (S, E) float32 and spans (S, 2) int32, the end
            token last with span (-1, -1). The end token is the first special piece
            after the text; a PLM that puts none there yields no such row.
        """
        cuts = self._cut(texts)
        batches: dict[int, list[Window]] = defaultdict(list)
        left = [0] * len(texts)
        for index, cut in enumerate(cuts):
            for window in windows(cut.spans, self.limit - self._specials, index):
                batches[window.end - window.begin].append(window)
                left[index] += 1
        size = batch_size if self._on_cpu else GPU_BATCH
        order = [
            alike[first : first + size]
            for _, alike in sorted(batches.items())
            for first in range(0, len(alike), size)
        ]
        states: dict[int, dict[int, np.ndarray]] = defaultdict(dict)
        with self._workers() as pool:
            read = pool.map(lambda batch: self._read(batch, cuts), order)
            for batch, kept in zip(order, read, strict=True):
                for window, rows in zip(batch, kept, strict=True):
                    index = window.text
                    states[index][window.begin] = rows
                    left[index] -= 1
                    if not left[index]:
                        whole = states.pop(index)
                        yield (
                            index,
                            np.concatenate([whole[begin] for begin in sorted(whole)]),
                            _with_end(cuts[index]),
                        )

    @contextmanager
    def _workers(self) -> Iterator[ThreadPoolExecutor]:
        """Threads that read a batch each, without helpers of PyTorch's."""
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(
            threads if self._on_cpu else 1,
            initializer=torch.set_num_threads,
            initargs=(1,),
        )
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
            # It is a setting of the whole process too.
            torch.set_num_threads(threads)

    def _read(self, batch: list[Window], cuts: list[Pieces]) -> list[np.ndarray]:
        """States kept of each window, with the end token's after the last piece."""
        ids, types = [], []
        for window in batch:
            cut = cuts[window.text]
            head, tail = np.arange(cut.begin), np.arange(cut.end, len(cut.ids))
            body = np.arange(cut.begin + window.begin, cut.begin + window.end)
            order = np.concatenate([head, body, tail])
            ids.append(cut.ids[order])
            types.append(cut.types[order])
        length = max(len(ids[0]), 1)
        rows = -(-PRODUCT_ROWS // length) if self._on_cpu else GPU_BATCH
        filling = max(0, rows - len(batch))
        states = self._run(ids + ids[:1] * filling, types + types[:1] * filling)
        kept = []
        for row, window in zip(states, batch, strict=False):  # (rows, L, E)
            cut = cuts[window.text]
            shift = cut.begin - window.begin
            end = window.keep_end + shift
            if window.end == len(cut.spans) and cut.end < len(cut.ids):
                end += 1
            kept.append(row[window.keep_begin + shift : end])
        return kept

    def _run(self, ids: list[np.ndarray], types: list[np.ndarray]) -> np.ndarray:
        """States (B, L, E) float32 of inputs of equal length, (B, L) each."""
        if not len(ids[0]):
            return np.zeros((len(ids), 0, self.width), dtype=np.float32)
        inputs = {"input_ids": torch.from_numpy(np.stack(ids)).to(self._device)}
        if self._typed:
            types_ = torch.from_numpy(np.stack(types)).to(self._device)
            inputs["token_type_ids"] = types_
        # The last of the hidden states lacks the final norm in some models.
        inner = self.layer < self._layers
        try:
            with torch.inference_mode():
                output = self._model(**inputs, output_hidden_states=inner)
            states = (
                output.hidden_states[self.layer] if inner else output.last_hidden_state
            )
            return states.float().cpu().numpy()
        # Whatever a model raises that does not fit its tokenizer or its memory.
        except Exception as error:
            raise PLMError(
                f"The PLM {self.name} cannot read what its tokenizer makes of a text.",
                got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
                wanted=f"states of {len(ids)} inputs of {len(ids[0])} pieces",
                remedy="choose another PLM, or another --device if memory ran out",
            ) from error

    def _cut(self, texts: Sequence[str]) -> list[Pieces]:
        lowered = [lower(text) if self.lower else (text, None) for text in texts]
        encodings = self._tokenizer.encode_batch([text for text, _ in lowered])
        for (text, _), encoding in zip(lowered, encodings, strict=True):
            check_coverage(self.name, text, encoding.offsets, self._tokenizer)
        cuts = [
            self._pieces(text, owners, encoding)
            for text, (_, owners), encoding in zip(
                texts, lowered, encodings, strict=True
            )
        ]
        for text, cut in zip(texts, cuts, strict=True):
            if cut.ids.max(initial=-1) >= self._vocabulary:
                raise PLMError(
                    f"The tokenizer of the PLM {self.name} belongs to another model.",
                    got=f"piece {cut.ids.max()} in {text[:80]!r}",
                    wanted=f"numbers below {self._vocabulary}, which it has embeddings "
                    "for",
                    remedy="fetch the PLM again, or choose another one",
                )
        return cuts

    def _pieces(self, text: str, owners: np.ndarray | None, encoding: Any) -> Pieces:
        ids = np.array(encoding.ids, dtype=np.int64)
        special = np.array(encoding.special_tokens_mask, dtype=bool)
        plain = np.flatnonzero(~special)
        if len(plain):
            begin, end = int(plain[0]), int(plain[-1]) + 1
        else:
            begin = end = min(self._begin, len(ids))
        offsets = encoding.offsets[begin:end]
        spans = np.zeros((len(offsets), 2), dtype=np.int32)
        for row, ((first, last), number) in enumerate(
            zip(offsets, ids[begin:end], strict=True)
        ):
            if owners is not None and last > first:
                first, last = int(owners[first]), int(owners[last - 1]) + 1
            while first < last and text[first].isspace():
                first += 1
            while first < last and text[last - 1].isspace():
                last -= 1
            spans[row] = first, first if number == self._unknown else last
        extend_over_marks(text, spans)
        types = np.array(encoding.type_ids, dtype=np.int64)
        return Pieces(ids, types, begin, end, spans)

    def _layer_number(self, layer: int | None) -> int:
        self._layers = int(self._model.config.num_hidden_layers)
        number = self._layers if layer is None else layer
        number += (self._layers + 1) if number < 0 else 0
        if not 0 <= number <= self._layers:
            raise PLMError(
                f"The PLM {self.name} has no layer {layer}.",
                got=layer,
                wanted=f"0 (embeddings) to {self._layers}, or -1 for the last",
                remedy="correct --layer",
            )
        return number


def lower(text: str) -> tuple[str, np.ndarray]:
    """A text in lower case, and for each of its characters the one it came from.

    Only some characters grow: the Turkish capital I with a dot becomes two.
    """
    counts = [len(character.lower()) for character in text]
    owners = np.repeat(np.arange(len(text)), counts)
    lowered = text.lower()
    assert len(lowered) == len(owners), (text, lowered)
    return lowered, owners


def _with_end(cut: Pieces) -> np.ndarray:
    if cut.end == len(cut.ids):
        return cut.spans
    return np.concatenate([cut.spans, np.array([END_SPAN], dtype=np.int32)])


def _limit(name: str, tokenizer: Any, model: Any) -> int:
    """Longest input: what the model has positions for and its tokenizer allows."""
    positions = getattr(model.config, "max_position_embeddings", None) or _NO_LIMIT
    allowed = tokenizer.model_max_length
    for value in (positions, allowed):
        # A number that is not finite is not below the limit either.
        if not is_number(value) or not value > 0:
            raise PLMError(
                f"The PLM {name} does not say how much it reads at once.",
                got=repr(value),
                wanted="a number of pieces as model_max_length in its "
                "tokenizer_config.json and max_position_embeddings in its config.json",
                remedy="fetch the PLM again, or choose another one",
            )
    for module_name, module in model.named_modules():
        # RoBERTa counts positions from behind its padding index.
        if module_name.endswith("position_embeddings"):
            padding = getattr(module, "padding_idx", None)
            positions -= 0 if padding is None else padding + 1
    return int(min(positions, allowed, _NO_LIMIT))


def _load_tokenizer(transformers: Any, name: str, folder: Path) -> Any:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    # Whatever a damaged file makes the libraries raise.
    except Exception as error:
        raise _unreadable(f"The tokenizer of the PLM {name}", error) from error
    if not tokenizer.is_fast:
        raise PLMError(
            f"The PLM {name} has no fast tokenizer.",
            got=type(tokenizer).__name__,
            wanted="a fast tokenizer, which says which characters a piece covers",
            remedy="choose a PLM with a tokenizer.json, or convert its tokenizer",
        )
    return tokenizer


def _load_model(transformers: Any, name: str, folder: Path) -> Any:
    try:
        model, report = transformers.AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            # Not what the folder asks for, which may be code from elsewhere.
            attn_implementation="eager",
            output_loading_info=True,
        )
    except Exception as error:
        raise _unreadable(f"The PLM {name}", error) from error
    if model.config.is_encoder_decoder:
        raise PLMError(
            f"The PLM {name} is an encoder with a decoder.",
            got=type(model).__name__,
            wanted="an encoder (BERT, RoBERTa, ...) or a decoder (GPT-2, Qwen, ...)",
            remedy="choose another PLM",
        )
    # A pooler makes one vector of a text; it is not used and often not saved.
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing or report["mismatched_keys"]:
        raise PLMError(
            f"The PLM {name} lacks weights, which would be random.",
            got=f"{len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(report['mismatched_keys'])} of another shape",
            wanted="a checkpoint that fits its config.json",
            remedy="fetch it again, or choose another PLM",
        )
    model.config.use_cache = False
    return model


def _unreadable(what: str, error: Exception) -> PLMError:
    return PLMError(
        f"{what} cannot be read.",
        got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
        wanted="files this version of transformers reads without code of their own",
        remedy="fetch the PLM again, update transformers, or choose another PLM",
    )


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bars and reports of the library's own: our errors say it."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
