"""Whatever stands in a file: it is read as what it says, or refused with a message.

The files are those of `benchmarks/robustness/fuzz.py`. A failing case of a mutation test can be looked at with
`python benchmarks/robustness/fuzz.py --replay CASE`.
"""

import importlib
import json
import math
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_worm.core.masks import pack, unpack
from hf_worm.files import parse_json

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "robustness"))
fuzz = importlib.import_module("fuzz")

FILES = [(name, file) for name, reader in fuzz.READERS.items() for file in dict.fromkeys(reader.damaged)]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(fuzz.VALUES),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The readers and their valid files, in a process that may take no more than 2 GiB beyond what it has."""
    made = fuzz.Fuzzer(tmp_path_factory.mktemp("fuzz"))
    before = fuzz.limit_memory(2)
    yield made
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("name", fuzz.READERS)
def test_valid_files_are_read(fuzzer: Any, name: str) -> None:
    for file, content in fuzzer.valid[name].items():
        assert fuzzer.read(name, file, content) == "read"


@pytest.mark.parametrize("place", range(len(fuzz.READERS)), ids=list(fuzz.READERS))
@settings(max_examples=250)
@given(case=st.integers(0, 10**6))
def test_damaged_files_are_read_or_refused(fuzzer: Any, place: int, case: int) -> None:
    assert fuzzer.read(*fuzzer.case(case * len(fuzz.READERS) + place)) in ("read", "refused")


@pytest.mark.parametrize(("name", "file"), FILES)
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(fuzzer: Any, name: str, file: str, content: bytes) -> None:
    assert fuzzer.read(name, file, content) == "refused"


@pytest.mark.parametrize(("name", "file"), [pair for pair in FILES if pair[1].endswith(".json")])
@given(data=st.data())
def test_any_json_is_read_or_refused(fuzzer: Any, name: str, file: str, data: st.DataObject) -> None:
    valid = json.loads(fuzzer.valid[name][file])
    content = data.draw(JSON_VALUES | st.dictionaries(st.sampled_from(sorted(valid)), JSON_VALUES).map(valid.__or__))
    assert fuzzer.read(name, file, json.dumps(content).encode()) in ("read", "refused")


@given(text=st.text(alphabet='[]{}":,0123456789eE.-truefalsnNIy \\', max_size=60))
def test_parse_json_raises_a_value_error_alone(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            parse_json(text)
    else:
        assert repr(parse_json(text)) == repr(expected)


@given(shape=st.lists(st.integers(0, 9), max_size=4), data=st.data())
def test_what_is_packed_is_unpacked(shape: list[int], data: st.DataObject) -> None:
    units = math.prod(shape)
    kept = data.draw(st.lists(st.booleans(), min_size=units, max_size=units))
    mask = torch.tensor(kept, dtype=torch.bool).view(shape)
    packed = pack(mask)
    assert packed.dtype == torch.uint8 and packed.shape == (math.ceil(units / 8),)
    assert torch.equal(unpack(packed, shape), mask)


@given(packed=st.binary(max_size=8), shape=st.lists(st.integers(-2, 12), max_size=3))
def test_what_is_unpacked_is_packed_to_the_same_bytes_or_refused(packed: bytes, shape: list[int]) -> None:
    stored = torch.tensor(list(packed), dtype=torch.uint8)
    try:
        mask = unpack(stored, shape)
    except ValueError as error:
        assert str(tuple(shape)) in str(error)
    else:
        assert tuple(mask.shape) == tuple(shape) and torch.equal(pack(mask), stored)


def test_a_failure_would_be_seen(fuzzer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a reader that raises what it should not, and one that changes what it reads."""
    name, file = FILES[0]
    monkeypatch.setattr(fuzz.Ticket, "from_pretrained", lambda folder: {}["x"])
    with pytest.raises(KeyError):
        fuzzer.read(name, file, b"")
    monkeypatch.setattr(fuzz, "same", lambda first, second: False)
    with pytest.raises(AssertionError, match="another search when read again"):
        fuzzer.read(*FILES[-1], fuzzer.valid[FILES[-1][0]][FILES[-1][1]])
