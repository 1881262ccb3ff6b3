"""Windows over texts that are longer than a PLM takes."""

from __future__ import annotations

import numpy as np
import pytest

from espnet_hkd.teacher.windows import windows


def test_a_text_that_fits_is_read_at_once():
    (part,) = windows(np.zeros((7, 2)), 7, 3)
    assert (part.text, part.begin, part.end, part.keep_begin, part.keep_end) == (
        3, 0, 7, 0, 7
    )  # fmt: skip


@pytest.mark.parametrize("room", [2, 3, 10, 17])
def test_windows_cover_all_and_end_at_words(room):
    # Words of one to three pieces, a space between words.
    spans, begin = [], 0
    for word in range(40):
        for _ in range(word % 3 + 1):
            spans.append((begin, begin + 2))
            begin += 2
        begin += 1
    spans = np.array(spans)
    parts = list(windows(spans, room))
    assert (parts[0].begin, parts[-1].end) == (0, len(spans))
    kept = [n for part in parts for n in range(part.keep_begin, part.keep_end)]
    assert kept == list(range(len(spans)))
    for part in parts:
        assert part.begin <= part.keep_begin < part.keep_end <= part.end
        assert part.end - part.begin <= room
    if room >= 10:
        starts = {0, *(np.flatnonzero(spans[1:, 0] > spans[:-1, 1]) + 1).tolist()}
        assert {part.begin for part in parts} <= starts
        assert {part.end for part in parts} <= starts | {len(spans)}


def test_what_shares_characters_is_not_torn_apart_where_it_can_be_helped():
    spans = np.repeat([[n, n + 1] for n in range(20)], 3, axis=0)  # three bytes each
    for part in windows(spans, 12):
        assert part.begin % 3 == 0
        assert part.end % 3 == 0
