"""Errors that a user can cause say what was got, what was wanted, how to mend it."""

from __future__ import annotations

import pickle

import pytest

from espnet_hkd import errors
from espnet_hkd.checks import check_keys, check_number, check_switch, check_whole
from espnet_hkd.errors import ConfigError, HKDError

CLASSES = {name for name in vars(errors) if name.endswith("Error")}


@pytest.mark.parametrize("missing", ["got", "wanted", "remedy"])
def test_no_error_can_be_made_without_all_of_its_parts(missing: str):
    parts = {"got": 1, "wanted": 2, "remedy": "write 2"}
    del parts[missing]
    with pytest.raises(TypeError, match=f"'{missing}'"):
        ConfigError("wrong", **parts)


def test_a_message_shows_its_parts():
    error = ConfigError("no such thing", got=1, wanted="2", remedy="add one")
    assert str(error).splitlines() == [
        "no such thing",
        "  got:    1",
        "  wanted: 2",
        "  remedy: add one",
    ]


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_errors_travel_from_workers_and_are_none_that_espnet_swallows(name: str):
    error = getattr(errors, name)("problem", got="this", wanted="that", remedy="mend")
    there = pickle.loads(pickle.dumps(error))
    assert (type(there), str(there)) == (type(error), str(error))
    assert there.remedy == "mend"
    assert isinstance(error, HKDError)
    assert not isinstance(error, RuntimeError | KeyError | ValueError)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("1e-3", "1.0e-3"),
        ("0.5", "without quotes"),
        ("half", "a number at least 0"),
        (True, "a number at least 0"),
        (None, "a number at least 0"),
        ([0.5], "a number at least 0"),
        (float("nan"), "out of range"),
        (float("inf"), "out of range"),
        (-0.1, "at least 0"),
        (1, "below 1"),
    ],
    ids=str,
)
def test_what_is_no_number_in_the_limits_is_named(value, said):
    with pytest.raises(ConfigError, match=rf"model_conf\.x (.|\n)*{said}") as caught:
        check_number("model_conf.x", value, least=0, below=1)
    assert caught.value.got == repr(value)
    assert check_number("model_conf.x", 0, least=0, below=1) == 0.0


@pytest.mark.parametrize("value", ["2", 2.0, True, 0, None], ids=repr)
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(ConfigError, match=r"model_conf\.x(.|\n)*at least 1"):
        check_whole("model_conf.x", value)
    assert check_whole("model_conf.x", 1) == 1


@pytest.mark.parametrize("value", ["true", 1, None], ids=repr)
def test_what_is_no_switch_is_named(value):
    with pytest.raises(ConfigError, match=r"model_conf\.x(.|\n)*true or false"):
        check_switch("model_conf.x", value)
    assert check_switch("model_conf.x", False) is False


def test_unknown_keys_are_named_with_the_known_ones():
    class Owner:
        def __init__(self, size, *, d=1, **others): ...

    check_keys("model_conf", ["a"], Owner, ["a"])
    with pytest.raises(ConfigError, match=r"unknown key in model_conf: b, c") as caught:
        check_keys("model_conf", ["c", "a", "b"], Owner, ["a"])
    assert caught.value.wanted == "a, d"
