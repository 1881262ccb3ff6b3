"""Attach each utterance's aligned teacher states to ESPnet's training data."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from espnet2.train.preprocessor import CommonPreprocessor

from espnet_hkd.checks import check_keys, check_number, check_switch
from espnet_hkd.errors import (
    AlignmentError,
    ConfigError,
    DataError,
    MissingTeacherError,
    StoreError,
)
from espnet_hkd.speech.pauses import NOISE_DB, add_pause, make_pause
from espnet_hkd.teacher.align import TOKEN_TYPES, align, place_bpe, place_tokens
from espnet_hkd.teacher.extra import ExtraText
from espnet_hkd.teacher.store import TeacherStore
from espnet_hkd.teacher.text import canonical_text

logger = logging.getLogger(__name__)

MISSING_TEACHER = ("error", "skip")


class HKDPreprocessor(CommonPreprocessor):
    """ESPnet's preprocessor, and the teacher of each transcript ("hkd_teacher").

    With a store and a transcript it adds `teacher` (U, E) float32 and `teacher_mask`
    (U,) int64, valid where 1; U counts the end of sentence. Without a store, or
    without a transcript (when decoding), it adds nothing.

    With `extra_text` it adds, in training, `extra` (U - 1,) int64, the tokens of a
    sentence without speech, and with a store its `extra_teacher` and
    `extra_teacher_mask`; all of zero length for utterances that bring none.

    An utterance whose transcript is empty has the end of sentence only, with mask 0.

    Args:
        store: Folder of a teacher store; relative to the working directory, which in a
            recipe is the recipe's folder. Opened when first needed, in each process.
        missing_teacher: What to do about a transcript the store lacks: `error`, or
            `skip`, which gives arrays of zero length and logs how many there are.
        standardise: Give states of mean 0 and deviation 1 in each dimension, by what
            the store records, instead of the states as they are (published).
        before_token: Teach each token by the piece before it, where a causal PLM holds
            what it expects to come, instead of by its own pieces (published).
        extra_text: File of sentences without speech, one a line, written as the
            transcripts are; null: none.
        extra_share: Share of the utterances that bring one, in [0, 1].
        pause_prob: Share of the training utterances that get a pause before, after or
            within (`espnet_hkd.speech.pauses`); needs `fs`, the rate in Hz.
        pause_seconds: Shortest and longest such pause; their logarithm is uniform.
        pause_only_prob: Share of the training utterances that are replaced by a pause
            with an empty transcript.
        pause_noise_db: Least and greatest level of the white noise that a third of
            these hold, in dB of full scale.
        *args: As for ESPnet's CommonPreprocessor.
        **kwargs: The same.

    Raises:
        ConfigError: An unknown key, or a value or a token type that cannot be.
    """

    def __init__(
        self,
        *args: Any,
        store: str | None = None,
        missing_teacher: str = "error",
        standardise: bool = False,
        before_token: bool = False,
        extra_text: str | None = None,
        extra_share: float = 0.5,
        pause_prob: float = 0.0,
        pause_seconds: Sequence[float] = (0.2, 5.0),
        pause_only_prob: float = 0.0,
        pause_noise_db: Sequence[float] = NOISE_DB,
        **kwargs: Any,
    ) -> None:
        known = inspect.signature(CommonPreprocessor.__init__).parameters
        check_keys("preprocessor_conf", kwargs, HKDPreprocessor, list(known)[1:])
        super().__init__(*args, **kwargs)
        if missing_teacher not in MISSING_TEACHER:
            raise ConfigError(
                "preprocessor_conf.missing_teacher has no such value.",
                got=repr(missing_teacher),
                wanted=" or ".join(MISSING_TEACHER),
                remedy="correct it in the training configuration",
            )
        if not (store is None or isinstance(store, str | Path)):
            raise ConfigError(
                "preprocessor_conf.store is not a folder name.",
                got=repr(store),
                wanted="the folder extract-teacher wrote, or nothing",
                remedy="correct it in the training configuration",
            )
        token_type = kwargs.get("token_type")
        if store is not None and token_type not in (None, *TOKEN_TYPES):
            raise ConfigError(
                "A teacher cannot be aligned with this token type.",
                got=token_type,
                wanted=", ".join(TOKEN_TYPES),
                remedy="choose one of these with --token_type, or train without "
                "preprocessor_conf.store",
            )
        self.pause_prob = _probability("pause_prob", pause_prob)
        self.pause_only_prob = _probability(
            "pause_only_prob", pause_only_prob, most=1 - self.pause_prob
        )
        self.pause_seconds = _range("pause_seconds", pause_seconds, [0.2, 5.0], above=0)
        self.pause_noise_db = _range("pause_noise_db", pause_noise_db, NOISE_DB, most=0)
        if self.pause_prob + self.pause_only_prob > 0 and not self.fs:
            raise ConfigError(
                "Pauses need the rate of the recordings.",
                got="preprocessor_conf.fs not set",
                wanted="their rate in Hz, such as `fs: 16000`",
                remedy="add it to preprocessor_conf",
            )
        self.store = store
        self.missing_teacher = missing_teacher
        self.standardise = check_switch("preprocessor_conf.standardise", standardise)
        self.before_token = check_switch("preprocessor_conf.before_token", before_token)
        self.missing = 0
        self._token_type = token_type
        self._cleaner = _single(kwargs.get("text_cleaner"))
        self._symbols = _symbols(kwargs.get("non_linguistic_symbols"))
        self._space = kwargs.get("space_symbol", "<space>")
        self._delimiter = kwargs.get("delimiter")
        self._unknown_id = getattr(self.token_id_converter, "unk_id", None)
        self._opened: TeacherStore | None = None
        self.extra_share = check_number(
            "preprocessor_conf.extra_share", extra_share, least=0, most=1
        )
        self._extra: ExtraText | None = None
        if extra_text is not None and kwargs.get("token_list") is not None:
            self._extra = ExtraText(
                extra_text,
                cleaner=self._cleaner,
                numbers=self._numbers,
                unknown=self._unknown_id,
            )

    def __call__(
        self, uid: str, data: dict[str, str | np.ndarray]
    ) -> dict[str, np.ndarray]:
        raw = data.get(self.text_name)
        processed: dict[str, np.ndarray] = super().__call__(uid, data)
        if self.train and self._pause(uid, processed) and isinstance(raw, str):
            raw = ""
        if raw is None or self.text_cleaner is None:
            return processed
        if self._extra is not None and self.train:
            processed |= self._extra_sentence(self._extra)
        if self.store is None:
            return processed
        if not isinstance(raw, str):
            raise DataError(
                f"The transcript of {uid} came as numbers; a teacher is found by text.",
                got=type(raw).__name__,
                wanted="a data source of type `text`",
                remedy="use `FILE,text,text`, or train without preprocessor_conf.store",
            )
        processed["teacher"], processed["teacher_mask"] = self._teacher(
            uid, self.text_cleaner(raw), processed[self.text_name]
        )
        return processed

    def _extra_sentence(self, extra: ExtraText) -> dict[str, np.ndarray]:
        """A sentence without speech, and its teacher; or arrays of zero length."""
        text, ids = "", np.zeros(0, dtype=np.int64)
        if np.random.random() < self.extra_share:
            text, ids = extra.draw()
        added = {"extra": ids}
        if self.store is not None:
            teacher, mask = self._teacher(f"(extra sentence {text!r})", text, ids)
            # Without a sentence there is no end of sentence either.
            used = len(ids) > 0
            added["extra_teacher"] = teacher if used else teacher[:0]
            added["extra_teacher_mask"] = mask if used else mask[:0]
        return added

    def _numbers(self, text: str) -> list[int]:
        """The numbers of a cleaned text's tokens."""
        tokenizer: Any = self.tokenizer
        converter: Any = self.token_id_converter
        return converter.tokens2ids(tokenizer.text2tokens(text))

    def _pause(self, uid: str, processed: dict[str, np.ndarray]) -> bool:
        """Put pauses into the speech; whether they took its and the text's place."""
        speech = processed.get(self.speech_name)
        share = self.pause_prob + self.pause_only_prob
        if speech is None or share == 0:
            return False
        # As ESPnet's own augmentation does: its workers seed this generator.
        chance = np.random.random()
        if chance >= share:
            return False
        if speech.ndim != 1:
            raise DataError(
                f"The speech of {uid} has several channels, and pauses need one.",
                got=f"shape {speech.shape}",
                wanted="(samples,)",
                remedy="set preprocessor_conf.pause_prob and pause_only_prob to 0",
            )
        rng = np.random.default_rng(np.random.randint(2**31))
        shortest, longest = self.pause_seconds
        seconds = np.exp(rng.uniform(np.log(shortest), np.log(longest)))
        if chance < self.pause_prob:
            processed[self.speech_name] = add_pause(
                speech, self.fs, seconds, rng, noise_db=self.pause_noise_db
            )
            return False
        processed[self.speech_name] = make_pause(
            speech, self.fs, seconds, rng, noise_db=self.pause_noise_db
        )
        processed[self.text_name] = processed[self.text_name][:0]
        return True

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes that are spawned open the store for themselves.
        return {**self.__dict__, "_opened": None}

    def _teacher(
        self, uid: str, text: str, ids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Teacher states (U, E) and mask (U,) of one cleaned transcript."""
        store = self._open_store()
        width = store.settings.width
        canonical = canonical_text(text)
        if not canonical:
            tokens = len(ids) + 1
            return (
                np.zeros((tokens, width), dtype=np.float32),
                np.zeros(tokens, dtype=np.int64),
            )
        try:
            entry = store[canonical]
        except MissingTeacherError as error:
            if self.missing_teacher == "error":
                raise MissingTeacherError(
                    f"Utterance {uid}: {error.problem}",
                    got=error.got,
                    wanted=error.wanted,
                    remedy=error.remedy,
                ) from error
            self._count_missing(uid)
            return np.zeros((0, width), np.float32), np.zeros(0, np.int64)
        spans = self._place(uid, text, ids)
        alignment = align(spans, entry.spans, unknown=ids == self._unknown_id)
        if self.before_token:
            alignment = alignment.before()
        teacher = alignment.teacher(entry.states)
        if self.standardise:
            teacher = store.moments.standardise(teacher)
            teacher[~alignment.valid] = 0.0
        return teacher, alignment.valid.astype(np.int64)

    def _place(self, uid: str, text: str, ids: np.ndarray) -> np.ndarray:
        """Spans (U - 1, 2) of ESPnet's own tokens in the canonical text."""
        tokenizer: Any = self.tokenizer
        tokens = tokenizer.text2tokens(text)
        if len(tokens) != len(ids):
            raise AlignmentError(
                f"Utterance {uid}: its tokens are not those of its text {text!r}.",
                got=f"{len(ids)} token numbers",
                wanted=f"{len(tokens)}, one for each token of the text",
                remedy="train without prompts, or without preprocessor_conf.store",
            )
        if self._token_type == "bpe":
            return place_bpe(text, tokens, tokenizer.sp, symbols=self._symbols)
        return place_tokens(
            text,
            tokens,
            symbols=self._symbols,
            space=self._space,
            delimiter=self._delimiter,
        )

    def _open_store(self) -> TeacherStore:
        if self._opened is None:
            assert self.store is not None
            store = TeacherStore.open(self.store)
            if store.settings.cleaner != self._cleaner:
                raise StoreError(
                    f"The teacher store {self.store} was made with another cleaner.",
                    got=f"cleaner {store.settings.cleaner}",
                    wanted=f"cleaner {self._cleaner}, as in training",
                    remedy="make the store again in another folder with --cleaner "
                    "as in asr.sh",
                )
            self._opened = store
        return self._opened

    def _count_missing(self, uid: str) -> None:
        """Log the 1st, 10th, 100th, ... utterance without teacher of this process."""
        self.missing += 1
        if set(str(self.missing)[1:]) <= {"0"} and str(self.missing)[0] == "1":
            logger.warning(
                "%d utterance(s) so far have no teacher in %s, the last is %s",
                self.missing,
                self.store,
                uid,
            )


def _probability(key: str, value: Any, *, most: float = 1.0) -> float:
    return check_number(f"preprocessor_conf.{key}", value, least=0.0, most=most)


def _range(
    key: str, value: Any, example: Sequence[float], **limits: float
) -> tuple[float, float]:
    """A lower and an upper value within limits, as YAML lists them."""
    name = f"preprocessor_conf.{key}"
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ConfigError(
            f"{name} is no range.",
            got=repr(value),
            wanted=f"a list of two numbers, such as {list(example)}",
            remedy="correct it in the training configuration",
        )
    least = check_number(name, value[0], **limits)
    return least, check_number(name, value[1], **{**limits, "least": least})


def _single(cleaner: Any) -> str | None:
    """ESPnet takes a cleaner's name or a list of names; a store knows one name."""
    if cleaner is None or isinstance(cleaner, str):
        return cleaner
    return "+".join(cleaner) or None


def _symbols(source: Any) -> frozenset[str]:
    """Non-linguistic symbols of a file or a list, as ESPnet's tokenizer reads them."""
    if source is None:
        return frozenset()
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists():
            return frozenset()
        source = path.read_text(encoding="utf-8").split("\n")
    return frozenset(symbol.rstrip() for symbol in source) - {""}
