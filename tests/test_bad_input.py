"""What is refused, and what the user reads then: a row for each mistake, damaged file and trick.

No row may end in anything but a `ValueError` or an `OSError` that names what was got; a command ends with one line and
status 2. What is read as a pickle, written over without being asked for, or taken for a path, is tested below.
"""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image as Pillow
from safetensors.torch import save
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, TrainingArguments

from hf_worm import Ticket, TicketSearch, WormConfig
from hf_worm.checkpoint.state import STATE_NAME, load_state, save_state
from hf_worm.commands.glue import demo
from hf_worm.commands.glue.command import main as glue
from hf_worm.commands.image.command import main as image
from hf_worm.commands.job.output_dir import find_checkpoint
from hf_worm.report.progress import Progress

Row = tuple[str, Any, str]


def rows(*table: Row) -> Any:
    """Parameters from rows of an id, the input and a piece of the message."""
    return pytest.mark.parametrize(("given", "message"), [pytest.param(*row[1:], id=row[0]) for row in table])


def says(text: str, message: str) -> bool:
    """Whether the text has the message, in one of the wordings that versions of other libraries give it."""
    return any(wording in text for wording in message.split("|"))


def refusal(action: Callable[[], object]) -> str:
    """The message of a refusal; any other exception passes through and fails the test."""
    with pytest.raises((ValueError, OSError)) as caught:
        action()
    return str(caught.value)


# Configuration.

HUGE = 10**400


@rows(
    ("share of 1", {"prune_ratio": 1}, "`prune_ratio` must be in [0, 1), got 1."),
    ("share in percent", {"prune_ratio": 50}, "`prune_ratio` must be in [0, 1), got 50."),
    ("text for a number", {"prune_ratio": "0.5"}, "`prune_ratio` must be a finite number, got '0.5'."),
    ("truth for a number", {"margin": True}, "`margin` must be a finite number, got True."),
    ("not a number", {"stopping_point": float("nan")}, "`stopping_point` must be a finite number, got nan."),
    ("infinite", {"retrain_epochs": float("inf")}, "`retrain_epochs` must be a finite number, got inf."),
    ("larger than any float", {"truncation": HUGE}, "`truncation` must be a finite number, got 1000000"),
    ("complex", {"margin": 1j}, "`margin` must be a finite number, got 1j."),
    ("negative", {"margin": -0.1}, "`margin` must be at least 0, got -0.1."),
    ("window of one", {"window": 1}, "`window` must be a whole number of at least 2, got 1"),
    ("window with a fraction", {"window": 3.0}, "`window` must be a whole number of at least 2, got 3.0"),
    ("window beyond counting", {"window": 10**30}, f"`window` must be at most {sys.maxsize}, got 1000"),
    ("a word for layers", {"layers": "query"}, "`layers` must be a list of strings such as ['query', 'key'], got"),
    ("no layers", {"layers": []}, "`layers` is empty: name at least one layer"),
    ("a layer without a name", {"layers": ["query", ""]}, "`layers` is empty: name at least one layer"),
    ("numbers for layers", {"layers": [1]}, "`layers` must be a list of strings such as ['query', 'key'], got [1]"),
    ("a word for a ratio", {"layers": ["neurons=most"]}, "`most` in `layers`, of `neurons=most`, is no ratio"),
    ("a ratio of 1", {"layers": ["neurons=1"]}, "The ratio of `neurons=1` in `layers` must be in [0, 1): "),
    ("a ratio that is no number", {"layers": ["key=nan"]}, "The ratio of `key=nan` in `layers` must be in [0, 1): "),
    ("two ratios", {"layers": ["heads=0.2", "heads"]}, "`heads` is named twice in `layers`, with two ratios"),
    ("ratios for one", {"layers": ["key=0.1"], "scope": "global"}, "has a ratio of its own, and `scope='global'` one"),
    (
        "scope of neither",
        {"scope": "model"},
        "`scope` must be one of ('layer', 'global'), or n of m such as '2:4', got",
    ),
    ("scope as a list", {"scope": ["layer"]}, "or n of m such as '2:4', got ['layer']."),
    ("steps unsaid", {"sample_strategy": "steps"}, "`sample_strategy='steps'` needs `sample_steps`"),
    ("steps for epochs", {"sample_steps": 5}, "`sample_steps=5` needs `sample_strategy='steps'`, got 'epoch'."),
)
def test_settings(given: dict[str, Any], message: str) -> None:
    assert message in refusal(lambda: WormConfig(**given))


# Files of settings.


@rows(
    ("an unknown setting", '{"pruning": 0.5}', "settings that this version of hf_worm does not know: ['pruning']"),
    ("a wrong type", '{"window": "3"}', "`window` must be a whole number of at least 2, got '3'"),
    ("a wrong value", '{"prune_ratio": 2}', "won't do: `prune_ratio` must be in [0, 1), got 2."),
    ("NaN", '{"margin": NaN}', "`margin` must be a finite number, got nan."),
    ("infinity", '{"margin": 1e999}', "`margin` must be a finite number, got inf."),
    ("a huge number", f'{{"prune_ratio": {HUGE}}}', "`prune_ratio` must be a finite number, got 1000"),
    ("a number of 5,000 digits", '{"window": ' + "9" * 5000 + "}", "is damaged or not JSON: Exceeds the limit"),
    ("nested", '{"layers": [["query"]]}', "`layers` must be a list of strings"),
    ("null", '{"layers": null}', "`layers` must be a list of strings such as ['query', 'key'], got None"),
    ("a list", "[]", "must hold a JSON object of settings, got a list."),
    ("a text", '"layers"', "must hold a JSON object of settings, got a str."),
    ("empty", "", "is damaged or not JSON: Expecting value"),
    ("cut off", '{"window": 3', "is damaged or not JSON: Expecting ',' delimiter"),
    ("more behind", "{} {}", "is damaged or not JSON: Extra data"),
    ("a byte order mark", b"\xef\xbb\xbf{}", "is damaged or not JSON: Unexpected UTF-8 BOM"),
    ("UTF-16", "{}".encode("utf-16"), "is damaged or not JSON: 'utf-8' codec can't decode byte"),
    ("zeros", b"\0" * 100, "is damaged or not JSON: Expecting value"),
    ("10 MB of brackets", "[" * 10_000_000, "is damaged or not JSON: its brackets are nested too deep."),
    ("a million objects", '{"a":' * 1_000_000, "is damaged or not JSON: its brackets are nested too deep."),
    ("a pickle", pickle.dumps({"window": 3}), "is damaged or not JSON: 'utf-8' codec can't decode byte 0x80"),
)
def test_worm_config_json(given: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "worm_config.json"
    path.write_bytes(given.encode() if isinstance(given, str) else given)
    text = refusal(lambda: WormConfig.from_pretrained(tmp_path))
    assert str(path) in text and message in text


@rows(
    ("an empty folder", lambda folder: folder, "holds no `worm_config.json`"),
    ("no folder", lambda folder: folder / "no" / "where", "is neither a folder nor the id of a Hub repository"),
    ("a file", lambda folder: _written(folder / "file", b"{}"), "is neither a folder nor the id of a Hub repository"),
    ("a folder in its place", lambda folder: _made(folder / "worm_config.json").parent, "holds no `worm_config.json`"),
    ("a name with a zero", lambda folder: "a\0b", "is neither a folder nor the id of a Hub repository"),
    ("a mistyped folder", lambda folder: "runs/mprc", "runs/mprc is no folder here, and as a repository on the Hub it"),
    ("a way out", lambda folder: "../../../nowhere", "is neither a folder nor the id of a Hub repository"),
    ("not in the cache", lambda folder: "nobody/nothing", "annot find the requested files"),
)
def test_where_settings_and_tickets_are_looked_for(
    given: Callable[[Path], Path | str], message: str, tmp_path: Path
) -> None:
    where = given(tmp_path)
    assert message in refusal(lambda: WormConfig.from_pretrained(where))
    assert message.replace("worm_config.json", "ticket.safetensors") in refusal(lambda: Ticket.from_pretrained(where))


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


# Tickets.

V1 = "hf_worm.ticket.v1"
BYTE: dict[str, Any] = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}


def container(header: Mapping[str, Any] | bytes, data: bytes = b"\xe0", length: int | None = None) -> bytes:
    """A safetensors file: eight bytes of length, the header, the data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def ticket(shapes: Any, name: str = "q", data: bytes = b"\xe0", **changes: Any) -> bytes:
    """A ticket of one mask of 8 units, three of which stay, with these `shapes`; `changes` go to its entry."""
    metadata = {"format": V1, "shapes": shapes if isinstance(shapes, str) else json.dumps(shapes)}
    entry = {**BYTE, "shape": [len(data)], "data_offsets": [0, len(data)], **changes}
    return container({"__metadata__": metadata, name: entry}, data)


GOOD = ticket({"q": [8]})
HEADER = {"__metadata__": {"format": V1, "shapes": '{"q": [8]}'}, "q": BYTE}


@rows(
    ("empty", b"", "is damaged or not a safetensors file"),
    ("cut off in the header", GOOD[:40], "is damaged or not a safetensors file: Error while deserializing header"),
    ("cut off in the data", GOOD[:-1], "is damaged or not a safetensors file"),
    ("more behind", GOOD + b"x", "is damaged or not a safetensors file"),
    ("text", b"not safetensors at all", "is damaged or not a safetensors file"),
    ("a pickle", pickle.dumps({"q": 1}), "is damaged or not a safetensors file"),
    ("a header of 2^60 bytes", container(HEADER, length=2**60), "not a safetensors file: Error while deserializing"),
    ("a header of 2^64 - 1 bytes", container(HEADER, length=2**64 - 1), "header too large|HeaderTooLarge"),
    ("a header of 99 MB", container(HEADER, length=99_000_000), "invalid header length|InvalidHeaderLength"),
    ("a header of 0 bytes", container(b""), "is damaged or not a safetensors file"),
    ("a header that is no JSON", container(b"not json at all"), "invalid JSON in header|InvalidHeaderDeserialization"),
    ("a header that is a list", container(b"[]"), "invalid JSON in header|InvalidHeaderDeserialization"),
    ("a header of brackets", container(b'{"a":' + b"[" * 100_000), "is damaged or not a safetensors file"),
    ("a header not in UTF-8", container(b'{"\xff": 1}'), "invalid UTF-8 in header|InvalidHeader"),
    (
        "metadata twice",
        container(b'{"__metadata__":{},"__metadata__":{}}', b""),
        "duplicate field `__metadata__`|InvalidHeaderDeserialization",
    ),
    (
        "metadata of numbers",
        container({"__metadata__": {"format": 1}, "q": BYTE}),
        "invalid JSON in header|InvalidHeaderDeserialization",
    ),
    ("offsets that overlap", container({**HEADER, "k": BYTE}), "is damaged or not a safetensors file"),
    ("offsets past the end", ticket({"q": [8]}, shape=[99], data_offsets=[0, 99]), "is damaged or not a safetensors"),
    ("offsets with a gap", ticket({"q": [8]}, data_offsets=[1, 2]), "invalid offset for tensor `q`|InvalidOffset"),
    (
        "a size that overflows",
        ticket({"q": [8]}, shape=[2**40, 2**40]),
        "overflow computing buffer size|ValidationOverflow",
    ),
    ("an unknown type", ticket({"q": [8]}, dtype="PICKLE"), "unknown variant `PICKLE`|InvalidHeaderDeserialization"),
    ("no metadata", container({"q": BYTE}), f"is not a ticket: its format is None, not '{V1}'."),
    ("another format", container({**HEADER, "__metadata__": {"format": "pt"}}), "is not a ticket: its format is 'pt'"),
    ("another version", GOOD.replace(b"v1", b"v9"), "is not a ticket: its format is 'hf_worm.ticket.v9'"),
    ("no shapes", container({**HEADER, "__metadata__": {"format": V1}}), "is damaged: 'shapes'"),
    ("no masks", container({"__metadata__": {"format": V1, "shapes": "{}"}}, b""), "shapes do not name its masks"),
    ("shapes that are no JSON", ticket("{q: 8}"), "is damaged: Expecting property name"),
    ("shapes in a list", ticket([["q", 8]]), "is damaged: its shapes do not name its masks"),
    ("shapes of brackets", ticket("[" * 100_000), "is damaged"),
    ("shapes of another name", ticket({"k": [8]}), "is damaged: its shapes do not name its masks"),
    ("a mask too many", ticket({"q": [8], "k": [8]}), "is damaged: its shapes do not name its masks"),
    ("a shape of text", ticket({"q": "8"}), "is damaged"),
    ("a shape that is a number", ticket({"q": 8}), "is damaged"),
    ("no shape", ticket({"q": None}), "is damaged"),
    ("a negative size", ticket({"q": [-1, -8]}), "(-1, -8)"),
    ("a size with a fraction", ticket({"q": [8.0]}), "shape"),
    ("a size that is true", ticket({"q": [8, True]}), "is damaged"),
    ("a size that is not a number", ticket('{"q": [NaN]}'), "is damaged"),
    ("a size of 5,000 digits", ticket('{"q": [' + "9" * 5000 + "]}"), "is damaged: Exceeds the limit"),
    ("sizes whose product overflows", ticket({"q": [2**62, 4]}), "is damaged: A packed mask of shape (4611686018427"),
    ("sizes that overflow and vanish", ticket({"q": [2**40, 2**40, 0]}, data=b""), "is damaged"),
    ("a size that multiplies text", ticket({"q": [2**60, "ab"]}), "is damaged"),
    ("a mask without units", ticket({"q": [0]}, data=b""), "is damaged"),
    ("a bit past the units", ticket({"q": [7]}, data=b"\xff"), "has bits set past its 7 units"),
    ("a byte too few", ticket({"q": [9]}), "A packed mask of shape (9,) is `uint8` of shape (2,), got torch.uint8"),
    ("a byte too many", ticket({"q": [8]}, data=b"\xe0\0"), "is `uint8` of shape (1,), got torch.uint8 of shape (2,)"),
    ("bytes in two dimensions", ticket({"q": [8]}, shape=[1, 1]), "got torch.uint8 of shape (1, 1)"),
    ("floats", save({"q": torch.zeros(1)}, {"format": V1, "shapes": '{"q": [8]}'}), "`uint8` of shape (1,), got torch"),
    ("signed bytes", ticket({"q": [8]}, dtype="I8"), "is `uint8` of shape (1,), got torch.int8"),
    ("truth values", ticket({"q": [8]}, dtype="BOOL"), "is `uint8` of shape (1,), got torch.bool"),
)
def test_ticket_safetensors(given: bytes, message: str, tmp_path: Path) -> None:
    Ticket({"q": torch.ones(8, dtype=torch.bool)}, WormConfig()).save_pretrained(tmp_path)
    path = _written(tmp_path / "ticket.safetensors", given)
    text = refusal(lambda: Ticket.from_pretrained(tmp_path))
    assert str(path) in text and says(text, message)


SEEN = {
    "index": 0,
    "distances": [],
    "max_distance": None,
    "mean_distance": None,
    "truncating": False,
    "converged": False,
}


def history(**changes: Any) -> str:
    return json.dumps({"converged": True, "observations": [{**SEEN, **changes}]})


@rows(
    ("empty", "", "is damaged or not JSON"),
    ("a list", "[]", "is not the history of a search"),
    ("no observations", '{"converged": true}', "is not the history of a search: KeyError('observations')"),
    ("observations that are a number", '{"converged": true, "observations": 5}', "is not the history of a search"),
    ("an observation that is a number", '{"converged": true, "observations": [5]}', "an observation needs"),
    ("a field too many", history(more=1), "an observation needs"),
    ("distances that are nothing", history(distances=None), "is not the history of a search"),
    ("distances that are text", history(distances="abc"), "is not the history of a search"),
    ("distances of text", history(distances=["0.1"]), "is not the history of a search"),
    ("a distance that is not a number", history(max_distance=float("nan")), "is not the history"),
    ("an index of text", history(index="0"), "is not the history of a search"),
    ("a word for a truth value", history(converged="no"), "is not the history of a search"),
    ("converged as a word", '{"converged": "false", "observations": []}', "is not the history of"),
    ("brackets", "[" * 100_000, "is damaged or not JSON: its brackets are nested too deep."),
)
def test_worm_history_json(given: str, message: str, tmp_path: Path) -> None:
    Ticket({"q": torch.ones(8, dtype=torch.bool)}, WormConfig()).save_pretrained(tmp_path)
    path = _written(tmp_path / "worm_history.json", given.encode())
    text = refusal(lambda: Ticket.from_pretrained(tmp_path))
    assert str(path) in text and message in text


@pytest.mark.parametrize("name", ["../../../escaped", "/escaped", "a/../../b", "", "a\0b", "C:\\escaped", "~/escaped"])
def test_names_of_masks_are_names_and_no_paths(name: str, model: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "here"
    Ticket({"q": torch.ones(8, dtype=torch.bool)}, WormConfig()).save_pretrained(folder)
    (folder / "ticket.safetensors").write_bytes(ticket({name: [8]}, name=name))
    read = Ticket.from_pretrained(folder)
    assert list(read.masks) == [name]
    read.save_pretrained(folder)
    assert "are not those of the ticket" in refusal(lambda: read.apply_(model))
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.parent for path in files} == {Path("in/here")} and len(files) == 3


def test_a_ticket_behind_a_link_is_read_and_saving_leaves_what_it_leads_to(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    Ticket({"q": torch.ones(8, dtype=torch.bool)}, WormConfig()).save_pretrained(theirs)
    mine.mkdir()
    for path in theirs.iterdir():
        (mine / path.name).symlink_to(path)
    before = (theirs / "ticket.safetensors").read_bytes()
    read = Ticket.from_pretrained(mine)
    read.masks["q"][:4] = False
    read.save_pretrained(mine)
    assert (theirs / "ticket.safetensors").read_bytes() == before
    assert Ticket.from_pretrained(mine).sparsity == 0.5


# Checkpoints.

STATE = "hf_worm.state.v2"


def state(search: Any = None, progress: Any = None, masks: Any = None, **metadata: Any) -> Callable[[Path], bytes]:
    """Makes a `worm_state.safetensors` of a search with one observation, changed; an object is merged into its own."""

    def merged(text: str, change: Any) -> str:
        if isinstance(change, str):
            return change
        return json.dumps({**json.loads(text), **change} if isinstance(change, dict) else change)

    def make(folder: Path) -> bytes:
        seen = TicketSearch(small(), WormConfig())
        seen.observe()
        save_state(folder, Progress(), seen.state_dict())
        content = (folder / STATE_NAME).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        own = header["__metadata__"]
        own |= {"search": merged(own["search"], search)} if search is not None else {}
        own |= {"progress": merged(own["progress"], progress)} if progress is not None else {}
        own |= metadata
        data = content[8 + length :]
        if masks is not None:
            return save({name: torch.tensor(mask, dtype=torch.uint8) for name, mask in masks.items()}, own)
        return container(header, data)

    return make


PLACE = "window/0"  # of the oldest mask of a search's window


def short(query: list[int], key: list[int]) -> dict[str, list[int]]:
    return {f"{PLACE}/query.weight": query, f"{PLACE}/key.weight": key}


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"query": nn.Linear(4, 2), "key": nn.Linear(4, 2)})


@rows(
    ("no such file", None, "holds no `worm_state.safetensors`, so it is no checkpoint of a run that prunes."),
    ("empty", lambda folder: b"", "`worm_state.safetensors` is damaged"),
    ("cut off", lambda folder: state()(folder)[:-1], "`worm_state.safetensors` is damaged"),
    ("a pickle", lambda folder: pickle.dumps({}), "`worm_state.safetensors` is damaged"),
    ("a ticket", lambda folder: GOOD, f"its format is '{V1}', this version of hf_worm reads '{STATE}'"),
    ("another version", state(format="hf_worm.state.v9"), "its format is 'hf_worm.state.v9', this version"),
    ("progress that is no JSON", state(progress="{"), "`worm_state.safetensors` is damaged"),
    ("progress that is a list", state(progress=[]), "`worm_state.safetensors` is damaged"),
    ("progress of another version", state(progress={"more": 1}), "unexpected keyword argument 'more'"),
    ("a phase that there is not", state(progress={"phase": "prune"}), "is damaged"),
    ("steps that are a number", state(progress={"steps": 5}), "is damaged"),
    ("seconds without end", state(progress={"seconds": {"search": 10**400}}), "seconds must be finite numbers"),
    ("an epoch of text", state(progress={"begun_epoch": "3"}), "seconds must be finite numbers"),
    ("progress of brackets", state(progress="[" * 100_000), "`worm_state.safetensors` is damaged"),
    ("a search that is a list", state(search=[]), "`worm_state.safetensors` is damaged"),
    ("a search of brackets", state(search="[" * 100_000), "`worm_state.safetensors` is damaged"),
    ("an empty search", state(search="{}"), "The state of the search is incomplete: it lacks ['config', 'history'"),
    ("shapes that are a list", state(search={"shapes": []}), "The state of the search is damaged"),
    ("a shape that is a number", state(search={"shapes": {"query.weight": 8}}), "state of the search is dam"),
    ("another model's shapes", state(search={"shapes": {"q": [3]}}), "are not those of the saved search"),
    ("settings that are a list", state(search={"config": []}), "The state of the search is damaged"),
    ("another ratio", state(search={"config": {"prune_ratio": 0.3, "scope": "layer", "window": 3}}), "`prune_ratio="),
    ("a history that is a number", state(search={"history": 1}), "The state of the search is damaged"),
    ("a history of text", state(search={"history": ["x"]}), "an observation needs"),
    ("a history too long", state(search={"history": [SEEN, SEEN]}), "2 observations and a window of 3 need 2 masks"),
    ("masks of no place", state(masks={"x/query.weight": [0]}), "`worm_state.safetensors` is damaged"),
    ("masks without a name", state(masks={"0": [0]}), "it lacks the tensor `window/0/query.weight`"),
    ("a mask missing", state(masks={f"{PLACE}/query.weight": [0]}), "it lacks the tensor `window/0/key.weight`"),
    ("a mask too short", state(masks=short([], [0])), "A packed mask of shape (2, 4)"),
    ("a mask too long", state(masks=short([0, 0], [0])), "A packed mask of shape (2, 4)"),
)
def test_worm_state_safetensors(given: Callable[[Path], bytes] | None, message: str, tmp_path: Path) -> None:
    if given is not None:
        content = given(tmp_path)
        (tmp_path / STATE_NAME).write_bytes(content)
    search = TicketSearch(small(), WormConfig())

    def resume() -> None:
        search.load_state_dict(load_state(tmp_path)[1])

    assert message in refusal(resume)
    assert search.history == [] and search.masks == {}  # it is as it was


# The commands.

WORDS = ("[PAD]", "[UNK]", "the", "film", "was", "good", "bad")
Run = Callable[..., str]


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one small layer, and its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    words = Tokenizer(WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=8, **names).save_pretrained(folder)
    sizes = {"vocab_size": len(WORDS), "hidden_size": 8, "intermediate_size": 8, "max_position_embeddings": 8}
    config = BertConfig(num_hidden_layers=1, num_attention_heads=2, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def flags(bert_folder: Path, tmp_path: Path, out: Path) -> Callable[..., list[str]]:
    """The flags of a short run of `hf-worm glue`; keywords change or add some, `None` drops one."""
    file = _written(tmp_path / "rows.csv", b"sentence,label\nthe film was good,1\nthe film was bad,0\n")

    def make(**changes: object) -> list[str]:
        settings: dict[str, object] = {
            "model_name_or_path": bert_folder,
            "train_file": file,
            "validation_file": file,
            "output_dir": out,
            "num_train_epochs": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            **changes,
        }
        return [f"--{name}={value}" for name, value in settings.items() if value is not None]

    return make


@pytest.fixture
def image_flags(out: Path) -> Callable[..., list[str]]:
    """The same of `hf-worm image`."""

    def make(**changes: object) -> list[str]:
        settings: dict[str, object] = {
            "config_overrides": "width=2",
            "max_train_samples": 8,
            "max_eval_samples": 8,
            "output_dir": out,
            "num_train_epochs": 1,
            "window": 2,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            **changes,
        }
        return [f"--{name}={value}" for name, value in settings.items() if value is not None]

    return make


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], out: Path) -> Run:
    """Runs a command that has to end with status 2, one line and no output folder; returns the line."""

    def run(command: Callable[[list[str]], int], argv: list[str]) -> str:
        assert command(argv) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith(f"hf-worm {command.__module__.split('.')[2]}: error: ")
        assert not any(out.rglob("*")), "nothing was begun"
        return line

    return run


@rows(
    ("a flag misspelt", {"prune_ration": 0.3}, "unknown argument `--prune_ration`. Did you mean `--prune_ratio`?"),
    ("a share of 1", {"prune_ratio": 1}, "`prune_ratio` must be in [0, 1), got 1.0."),
    ("a word for a number", {"seed": "x"}, "argument --seed: invalid int value: 'x'"),
    ("a seed below 0", {"seed": -1}, "Seed must be between 0 and 2**32 - 1"),
    ("no batch", {"per_device_train_batch_size": 0}, "`per_device_train_batch_size` must be at least 1, got 0."),
    ("no eval batch", {"per_device_eval_batch_size": 0}, "`per_device_eval_batch_size` must be at least 1, got 0."),
    ("no accumulation", {"gradient_accumulation_steps": 0}, "`gradient_accumulation_steps` must be at least 1"),
    ("workers below 0", {"dataloader_num_workers": -1}, "`dataloader_num_workers` must be a finite number of at leas"),
    ("epochs below 0", {"num_train_epochs": -1}, "`num_train_epochs` must be a finite number of at least 0, got -1.0"),
    ("a rate that is no number", {"learning_rate": "nan"}, "`learning_rate` must be a finite number of at least 0, go"),
    ("a rate below 0", {"learning_rate": -1}, "`learning_rate` must be a finite number of at least 0, got -1.0."),
    ("a momentum below 0", {"optim": "sgd", "optim_args": "momentum=-1"}, "The optimizer `sgd` can't be made: Inv"),
    ("an unknown optimizer", {"optim": "adamm"}, "argument --optim: invalid choice: 'adamm'"),
    ("an optimizer not installed", {"optim": "adamw_bnb_8bit"}, "You need to install `bitsandbytes`"),
    ("a logger not installed", {"report_to": "wandb"}, "WandbCallback requires wandb to be installed"),
    ("an unknown logger", {"report_to": "nothing"}, "nothing is not supported, only"),
    (
        "a metric that there is not",
        {"metric_for_best_model": "f2", "load_best_model_at_end": True, "save_strategy": "epoch"}
        | {"eval_strategy": "epoch"},
        "`metric_for_best_model` must be one of accuracy, loss, got 'f2'.",
    ),
    ("a layer that there is not", {"layers": "value.bias2"}, "`value.bias2` in `layers` matches no parameter of"),
    ("scattered weights cut out", {"compact": True}, "are single weights: a matrix with scattered zeros does not get"),
    (
        "a smaller model's optimizer",
        {"layers": "neurons", "compact": True, "retrain_schedule": "continue"},
        "`compact=True` and `retrain_schedule='continue'` contradict each other",
    ),
    ("channels of a BERT", {"layers": "batchnorm"}, "Found no BatchNorm with affine parameters"),
    ("fading at once", {"truncation_target": "fade", "fade_epochs": 0}, "`fade_epochs` must be"),
    ("steps for epochs", {"sample_steps": 5}, "`sample_steps=5` needs `sample_strategy='steps'`"),
    ("nothing to do", {"do_train": False, "do_eval": False}, "Nothing to do: `do_train` and `do_eval` are both false."),
    ("an unknown task", {"task_name": "mprc"}, "`mprc` is no task of GLUE. Did you mean `mrpc`?"),
    ("no data", {"train_file": None, "validation_file": None}, "No data: pass `task_name`"),
    ("two sources", {"dataset_name": "x"}, "`train_file` and `dataset_name` are two sources of data: pass one"),
    ("no length", {"max_seq_length": 0}, "`max_seq_length` must be at least 1, got 0."),
    ("nothing to resume", {"resume_from_checkpoint": "last"}, "There is no checkpoint in"),
    ("no checkpoint", {"resume_from_checkpoint": "/etc"}, "`resume_from_checkpoint` /etc is no folder of a checkpoint"),
    ("no place to write", {"output_dir": "/proc/hf_worm"}, "/proc/hf_worm"),
)
def test_the_command_line_of_glue(given: dict[str, Any], message: str, flags: Any, fails: Run) -> None:
    assert message in fails(glue, flags(**given))


@rows(
    ("an unknown model", {"model": "resnet-18"}, "There is no model resnet-18. Did you mean `resnet18`?"),
    ("a setting misspelt", {"config_overrides": "widht=2"}, "`config_overrides` 'widht=2' won't do"),
    ("a setting without value", {"config_overrides": "width"}, "`config_overrides` 'width' won't do"),
    ("a width of 0", {"config_overrides": "width=0"}, "`width` must be a whole number of at least 1, got 0"),
    ("two channels", {"config_overrides": "num_channels=2"}, "images of 2 channels: 1 (grey) or 3 (colours)"),
    ("images of a billion pixels a side", {"image_size": 10**9}, "at 1000000000 × 1000000000 pixels, more than the"),
    ("shifts out of the image", {"crop_padding": 10**6}, "`crop_padding` must be at most 8, the edge of the images"),
    ("a shift below 0", {"crop_padding": -1}, "`crop_padding` must be at least 0, got -1."),
    ("a last batch of one image", {"max_train_samples": 129}, "The last batch of an epoch would hold one image"),
    ("momentum of a word", {"optim_args": "momentum=x"}, "`optim_args` must be settings of SGD such as momentum=0.9"),
    ("momentum below 0", {"optim_args": "momentum=-1"}, "The optimizer `sgd` can't be made: Invalid momentum value"),
    ("an unknown split", {"validation_split_name": "dev"}, "no split `dev` to evaluate on, only `train`"),
    ("attention of a CNN", {"layers": "query"}, "query"),
    ("heads of a CNN", {"layers": "heads", "compact": True}, "heads"),
)
def test_the_command_line_of_image(given: dict[str, Any], message: str, image_flags: Any, fails: Run) -> None:
    assert message in fails(image, image_flags(**given))


@rows(
    ("no file", ("a.json", None), "No such file or directory"),
    ("JSON cut off", ("a.json", b'{"seed": 1'), "a.json can't be read: Expecting ',' delimiter"),
    ("bytes", ("a.json", b"\xff\xfe"), "a.json can't be read: 'utf-8' codec can't decode byte 0xff"),
    ("brackets", ("a.json", b"[" * 100_000), "a.json can't be read: its brackets are nested too deep"),
    ("brackets in YAML", ("a.yaml", b"[" * 3000), "a.yaml can't be read: maximum recursion depth exceeded"),
    ("a list", ("a.json", b"[1]"), "a.json must hold arguments by name, got a list."),
    ("nothing", ("a.yaml", b""), "a.yaml must hold arguments by name, got a"),
    ("an object for a number", ("a.json", b'{"seed": {"a": 1}}'), "argument --seed: invalid int value"),
    ("a number of 5,000 digits", ("a.json", b'{"seed": ' + b"9" * 5000 + b"}"), "a.json can't be read: Exceeds"),
    ("a circle in YAML", ("a.yaml", b"a: &a\n  b: *a\n"), "a.yaml can't be read: found unconstructable recursive"),
    (
        "a call in YAML",
        ("a.yaml", b'seed: !!python/object/apply:os.system ["touch PWNED"]'),
        "`seed` in a.yaml must be a single value",
    ),
)
def test_files_of_arguments(
    given: tuple[str, bytes | None], message: str, flags: Any, fails: Run, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    name, content = given
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert message in fails(glue, [name, *flags()])
    assert not (tmp_path / "PWNED").exists()


# Data.

TEXT = "sentence,label\n"


@rows(
    ("no file", ("a.csv", None), "a.csv does not exist."),
    ("another type", ("a.txt", "x"), "a.txt must be one of .csv, .tsv, .json, .jsonl, .parquet."),
    ("no rows", ("a.csv", TEXT), "a.csv is empty: it holds no row."),
    ("no labels", ("a.csv", "sentence\na\nb\n"), "The train split has no column `label`: it needs `label`, and has"),
    ("no text", ("a.csv", "label,n\n0,1\n1,2\n"), "The data has no column of text, only `label`, `n`."),
    ("a row without label", ("a.csv", TEXT + "a,0\nb,\n"), "Row 2 of the train split has no label."),
    ("a cell too many", ("a.csv", TEXT + "a,0\nb,1,2\n"), "Expected 2 fields in line 3, saw 3"),
    ("a quote not closed", ("a.csv", TEXT + '"a,0\nb,1\n'), "a.csv: Error tokenizing data."),
    ("UTF-16", ("a.csv", (TEXT + "a,0\nb,1\n").encode("utf-16")), "'utf-8' codec can't decode byte 0xff"),
    ("Latin-1", ("a.csv", (TEXT + "café,0\nb,1\n").encode("latin-1")), "'utf-8' codec can't decode byte 0xe9"),
    (
        "a single class",
        ("a.csv", TEXT + "a,0\nb,0\n"),
        "The train split has the one label 0: there is nothing to learn",
    ),
    ("a label below 0", ("a.csv", TEXT + "a,1\nb,-7\n"), "The label of row 2 of the train split is -7"),
    (
        "a class of a billion",
        ("a.csv", TEXT + "a,0\nb,1000000000\n"),
        "The largest label of the train split is 1000000",
    ),
    ("an infinite score", ("a.csv", TEXT + "a,0.5\nb,inf\n"), "The label of row 2 of the train split is inf"),
    (
        "numbers for text",
        ("a.jsonl", '{"sentence":1,"label":0}\n{"sentence":2,"label":1}'),
        "must hold text, got Value",
    ),
    ("null for text", ("a.jsonl", '{"sentence":null,"label":0}\n{"sentence":"b","label":1}'), "Row 1 of the train spl"),
    (
        "a list for a label",
        ("a.jsonl", '{"sentence":"a","label":[0]}\n{"sentence":"b","label":[1]}'),
        "got List(Value(",
    ),
    ("JSON cut off", ("a.json", "{"), "a.json"),
    ("brackets", ("a.json", "[" * 100_000), "a.json: Reached object decoding depth limit|a.json: JSON parse error"),
    ("Parquet cut off", ("a.parquet", b"PAR1" + b"\0" * 50 + b"PAR1"), "a.parquet: Couldn't deserialize thrift"),
    ("a pickle", ("a.parquet", pickle.dumps({"label": 1})), "a.parquet: Parquet magic bytes not found in footer"),
)
def test_files_of_sentences(
    given: tuple[str, str | bytes | None], message: str, flags: Any, fails: Run, tmp_path: Path
) -> None:
    name, content = given
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert says(fails(glue, flags(train_file=path, validation_file=path)), message)


@rows(
    ("no folder", {}, "is a folder that does not exist."),
    ("an empty folder", {"more/": b""}, "doesn't contain any data files"),
    (
        "a README of bad YAML",
        {"README.md": b"---\nconfigs: [\n---\n", "train.csv": b"a,b\n1,2\n"},
        "Can't load the data",
    ),
    ("a script", {"data.py": b"open('PWNED', 'w')"}, "Dataset scripts are no longer supported"),
    (
        "a way out",
        {"README.md": b"---\nconfigs:\n- config_name: a\n  data_files: ../../../nowhere.csv\n---\n"},
        "nowhere",
    ),
)
def test_folders_of_data(
    given: dict[str, bytes], message: str, flags: Any, fails: Run, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in given.items():
        if name.endswith("/"):
            _made(tmp_path / "data" / name)
        else:
            _written(tmp_path / "data" / name, content)
    argv = flags(train_file=None, validation_file=None, dataset_name="./data" if not given else tmp_path / "data")
    assert message in fails(glue, argv)
    assert not list(tmp_path.rglob("PWNED"))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(edge: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels a side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", edge, edge, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


NOISE = png(np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8))


@rows(
    ("an empty file", b"", "The image of row 2 of the train split can't be read"),
    ("text", b"no image", "The image of row 2 of the train split can't be read"),
    ("cut off", NOISE[:-30], "The image of row 2 of the train split is damaged"),
    ("a byte changed", NOISE[:40] + b"XX" + NOISE[42:], "The image of row 2 of the train split can't be read"),
    ("no pixels", bomb(0), "The image of row 2 of the train split can't be read"),
    ("ten billion pixels", bomb(100_000), "exceeds limit of 178956970 pixels"),
    ("a pickle", pickle.dumps(b""), "The image of row 2 of the train split can't be read"),
)
def test_files_of_images(given: bytes, message: str, image_flags: Any, fails: Run, tmp_path: Path) -> None:
    _written(tmp_path / "data" / "train" / "a" / "1.png", NOISE)
    _written(tmp_path / "data" / "train" / "b" / "2.png", given)
    argv = image_flags(dataset_name=tmp_path / "data", max_train_samples=None, do_eval=False)
    assert message in fails(image, argv)


@pytest.mark.skipif(Version(datasets.__version__) < Version("5.1"), reason="datasets takes them before 5.1")
def test_images_outside_of_their_folder_are_refused(image_flags: Any, fails: Run, tmp_path: Path) -> None:
    _written(tmp_path / "secret.png", NOISE)
    _written(tmp_path / "data" / "train" / "1.png", NOISE)
    _written(tmp_path / "data" / "train" / "metadata.csv", b"file_name,label\n../../secret.png,0\n1.png,1\n")
    line = fails(image, image_flags(dataset_name=tmp_path / "data", max_train_samples=None, do_eval=False))
    assert "Invalid metadata file_name '../../secret.png'" in line


# Models.


def settings(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), **changes}).encode()


@rows(
    ("settings that are no JSON", ("config.json", b"{"), "config.json' is not a valid JSON file."),
    ("settings in a list", ("config.json", b"[]"), "Can't load"),
    ("settings of brackets", ("config.json", b"[" * 100_000), "maximum recursion depth exceeded"),
    ("no architecture", ("config.json", b"{}"), "Should have a `model_type` key in its config.json"),
    ("an unknown architecture", ("config.json", settings(model_type="brt")), "has model type `brt` but Transformers"),
    (
        "a width of text",
        ("config.json", settings(hidden_size="x")),
        "Field 'hidden_size' expected int, got str|must be tuple of ints,but got str",
    ),
    ("a width below 0", ("config.json", settings(hidden_size=-8)), "negative dimension -8"),
    ("another width", ("config.json", settings(hidden_size=16)), "The weights are not of the sizes that the"),
    ("no heads", ("config.json", settings(num_attention_heads=0)), "Can't load"),
    (
        "three heads for eight",
        ("config.json", settings(num_attention_heads=3)),
        "is not a multiple of the number of at",
    ),
    ("an unknown activation", ("config.json", settings(hidden_act="rello")), "KeyError: 'rello'"),
    ("classes of text", ("config.json", settings(id2label="x")), "Can't load"),
    ("no weights", ("model.safetensors", None), "Error no file named model.safetensors"),
    ("empty weights", ("model.safetensors", b""), "Can't load"),
    ("weights cut off", ("model.safetensors", lambda content: content[:999]), "Error while deserializing header"),
    ("no words", ("tokenizer.json", b"{}"), "Can't load the tokenizer of"),
    ("words that are no JSON", ("tokenizer.json", b"{"), "Can't load the tokenizer of"),
    (
        "words that the model does not know",
        ("tokenizer.json", lambda content: content.replace(b'"film": 3', b'"film": 300')),
        "The tokenizer makes the token 300, the model knows 7 tokens, from 0: they do not belong together.",
    ),
)
def test_folders_of_models(
    given: tuple[str, Any], message: str, flags: Any, fails: Run, bert_folder: Path, tmp_path: Path
) -> None:
    name, content = given
    folder = Path(shutil.copytree(bert_folder, tmp_path / "bad"))
    if content is None:
        (folder / name).unlink()
    else:
        new = content if isinstance(content, bytes) else content((folder / name).read_bytes())
        assert new != (folder / name).read_bytes()
        (folder / name).write_bytes(new)
    line = fails(glue, flags(model_name_or_path=folder))
    assert says(line, message) and (str(folder) in line or "token 300" in line)


def test_weights_that_are_not_finite(flags: Any, fails: Run, bert_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert_folder, tmp_path / "bad")
    model = BertForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.query.weight[0, 0] = torch.nan
    model.save_pretrained(folder)
    line = fails(glue, flags(model_name_or_path=folder))
    assert "`bert.encoder.layer.0.attention.self.query.weight` holds NaN or infinite values." in line


def test_a_model_without_a_tokenizer(flags: Any, fails: Run, bert_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert_folder, tmp_path / "bad"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "The tokenizer of" in fails(glue, flags(model_name_or_path=folder))


# Pickles.


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def pickles(marker: Path) -> dict[str, bytes]:
    """The payload as `pickle` and as `torch.save` write it, old and new."""
    content = {"pickle": pickle.dumps(Payload(marker))}
    for name, new in (("zip", True), ("legacy", False)):
        buffer = io.BytesIO()
        torch.save({"q": Payload(marker)}, buffer, _use_new_zipfile_serialization=new)
        content[name] = buffer.getvalue()
    return content


PLAUSIBLE = (
    "ticket.pt", "ticket.bin", "ticket.pkl", "pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pt",
    "scheduler.pt", "rng_state.pth", "worm_state.pt", "worm_config.pkl", "worm_history.pkl", "__init__.py",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
def test_no_pickle_is_read_from_a_ticket_or_a_state(kind: str, tmp_path: Path) -> None:
    marker, folder = tmp_path / "PWNED", tmp_path / "ticket"
    content = pickles(marker)[kind]
    Ticket({"q": torch.ones(8, dtype=torch.bool)}, WormConfig()).save_pretrained(folder)
    (folder / STATE_NAME).write_bytes(state()(folder))
    for name in PLAUSIBLE:
        (folder / name).write_bytes(content)
    assert Ticket.from_pretrained(folder).sparsity == 0  # with all of them beside it
    assert WormConfig.from_pretrained(folder) == WormConfig()
    assert load_state(folder)[0].phase == "search"
    for name in ("ticket.safetensors", "worm_history.json", "worm_config.json", STATE_NAME):
        valid = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        read = load_state if name == STATE_NAME else Ticket.from_pretrained
        text = refusal(lambda read=read: read(folder))
        assert name in text and "damaged" in text
        (folder / name).unlink()
        assert name in refusal(lambda read=read: read(folder))  # nor is another file read in its place
        (folder / name).write_bytes(valid)
    assert not marker.exists()
    pickle.loads(pickles(marker)["pickle"])
    assert marker.exists(), "it could have failed"


@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
def test_a_model_that_is_a_pickle_is_not_run(
    kind: str, flags: Any, fails: Run, bert_folder: Path, tmp_path: Path
) -> None:
    marker, folder = tmp_path / "PWNED", Path(shutil.copytree(bert_folder, tmp_path / "bad"))
    (folder / "pytorch_model.bin").write_bytes(pickles(marker)[kind])
    (folder / "model.safetensors").unlink()
    assert "Weights only load failed" in fails(glue, flags(model_name_or_path=folder))
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    assert f"Can't load {folder}" in fails(glue, flags(model_name_or_path=folder))
    assert not marker.exists()


# What is there already.


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def foreign_checkpoint(out: Path) -> Path:
    return _written(out / "checkpoint-5" / "my_thesis.tex", b"mine")


def broken_link(out: Path) -> Path:
    return _link(out / "model.safetensors", _written(out.parent / "precious.safetensors", b"mine"))


def _link(path: Path, target: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("command", ["glue", "image"])
@pytest.mark.parametrize(
    "leave",
    [
        lambda out: _written(out / "notes.txt", b"mine"),
        lambda out: _written(out / "model.safetensors", b"of another run"),
        lambda out: _written(out / ".hidden", b""),
        lambda out: _made(out / "checkpoint-5"),
        foreign_checkpoint,
        broken_link,
    ],
    ids=["notes", "another run's model", "hidden", "an empty checkpoint", "a foreign checkpoint", "a link"],
)
def test_a_folder_that_holds_anything_is_refused_and_kept(
    command: str,
    leave: Callable[[Path], object],
    flags: Any,
    image_flags: Any,
    out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    leave(out)
    main, argv = (glue, flags()) if command == "glue" else (image, image_flags())
    before = files(tmp_path)
    assert main(argv) == 2
    assert f"`output_dir` {out} exists and is not empty." in capsys.readouterr().err
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("leave", "message"),
    [
        (foreign_checkpoint, "`checkpoint-5`, which is no checkpoint of a run: it holds none of trainer_state.json"),
        (lambda out: _written(out / "checkpoint-5", b"mine"), "`checkpoint-5`, which is no folder"),
        (lambda out: _link(out / "checkpoint-5", _made(out.parent / "theirs")), "`checkpoint-5`, which is no folder"),
        (
            lambda out: _made(out / "worm_report.json"),
            "`worm_report.json`, which is a folder, where a run writes a file",
        ),
        (broken_link, "`model.safetensors`, which is a link: a run would write over what it leads to"),
    ],
    ids=["a foreign checkpoint", "a file", "a link to a folder", "a folder for a file", "a link to a file"],
)
def test_overwriting_refuses_what_no_run_has_written(
    leave: Callable[[Path], object], message: str, flags: Any, out: Path, tmp_path: Path, capsys: Any
) -> None:
    leave(out)
    flags()  # its data
    before = files(tmp_path)
    assert glue(flags(overwrite_output_dir=True)) == 2
    assert message in capsys.readouterr().err
    assert files(tmp_path) == before


def test_overwriting_takes_a_runs_files_and_leaves_the_rest(flags: Any, out: Path, tmp_path: Path) -> None:
    real = _made(tmp_path / "real")
    out.symlink_to(real)  # a link to a folder is as good as the folder
    assert glue(flags(save_strategy="epoch")) == 0
    assert (real / "model.safetensors").is_file() and out.is_symlink()
    mine = {"notes.txt": b"mine", "checkpoint-notes/a.txt": b"mine", "data/rows.csv": b"mine", "checkpoint-5x": b"mine"}
    for name, content in mine.items():
        _written(real / name, content)
    checkpoints = list(real.glob("checkpoint-[0-9]"))
    assert checkpoints
    (checkpoints[0] / "trainer_state.json").unlink()  # as if it had been killed while it was written
    assert glue(flags(overwrite_output_dir=True, dense=True)) == 0
    after = files(real)
    assert mine.items() <= after.items()
    assert not {"ticket.safetensors", "worm_report.json"} & set(after)  # of a run that is gone
    assert not list(real.glob("checkpoint-[0-9]"))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["model", "checkpoint", "data folder", "train file"])
def test_what_a_run_reads_is_not_written_over(
    kind: str, overwrite: bool, flags: Any, out: Path, bert_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    if kind == "model":
        changes = {"model_name_or_path": shutil.copytree(bert_folder, out)}
    elif kind == "checkpoint":
        changes = {"model_name_or_path": shutil.copytree(bert_folder, out / "checkpoint-5")}
        _written(out / "checkpoint-5" / "trainer_state.json", b"{}")
    elif kind == "data folder":
        _written(out / "train.csv", (TEXT + "the film was good,1\nbad,0\n").encode())
        changes = {"dataset_name": out, "train_file": None, "validation_file": None, "do_eval": False}
    else:
        _written(out / "all_results.json", b'[{"sentence": "good", "label": 1}, {"sentence": "bad", "label": 0}]')
        changes = {"train_file": out / "all_results.json", "validation_file": None, "do_eval": False}
    argv = flags(overwrite_output_dir=overwrite, **changes)
    before = files(tmp_path)
    assert glue(argv) == 2
    assert f"`output_dir` {out} holds {next(iter(changes.values()))}, which the run reads" in capsys.readouterr().err
    assert files(tmp_path) == before


def test_data_that_a_run_does_not_write_over_may_lie_in_its_folder(flags: Any, out: Path) -> None:
    data = _written(out / "rows.csv", (TEXT + "the film was good,1\nthe film was bad,0\n").encode())
    assert glue(flags(overwrite_output_dir=True, train_file=data, validation_file=data)) == 0
    assert data.read_bytes().startswith(TEXT.encode()) and (out / "model.safetensors").is_file()


def test_a_name_that_is_no_path_is_not_taken_for_one(image_flags: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    _made(tmp_path / "resnet18")
    arguments = TrainingArguments(output_dir="resnet18", do_train=True, use_cpu=True)
    from hf_worm.commands.image.command import IMAGE
    from hf_worm.commands.job.parsing import parse

    assert find_checkpoint(arguments, True, IMAGE.inputs(parse(IMAGE, image_flags()))) is None


def test_a_file_where_the_folder_should_be(flags: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _written(out, b"mine")
    for overwrite in (False, True):
        assert glue(flags(overwrite_output_dir=overwrite)) == 2
        assert f"`output_dir` {out} is a file, not a folder." in capsys.readouterr().err
    assert glue(flags(output_dir=out / "inside")) == 2
    assert out.read_bytes() == b"mine"


@pytest.mark.skipif(os.name != "posix", reason="permissions of a file system")
def test_a_folder_that_cant_be_written_to(tmp_path: Path) -> None:
    """In a process of a user who may not, since the one that runs the tests may be root."""
    program = f"""
        import os, tempfile
        from pathlib import Path
        from transformers import TrainingArguments
        from hf_worm.commands.job.output_dir import find_checkpoint
        folder = Path({str(tmp_path)!r}) / "closed"
        folder.mkdir()
        arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, do_train=True)
        assert find_checkpoint(arguments, False) is None
        os.chmod(folder, 0o500)
        if os.geteuid() == 0:
            for path in (folder, *folder.parents):
                if path.owner() == "root" and Path(tempfile.gettempdir()) in path.parents:
                    os.chmod(path, path.stat().st_mode | 0o011)
            os.setresuid(65534, 65534, 65534)
        try:
            find_checkpoint(arguments, False)
        except PermissionError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line[8:] for line in program.splitlines())], capture_output=True, text=True
    )
    assert done.stdout == f"`output_dir` {tmp_path / 'closed'} can't be written to.\n", done.stderr


def test_the_demo_leaves_a_folder_that_is_not_its_own(tmp_path: Path, bert_folder: Path, monkeypatch: Any, capsys: Any):
    monkeypatch.setattr(demo, "model_folder", lambda: bert_folder)
    mine = _written(tmp_path / "mine" / "data" / "train.csv", b"sentence,label\nmine,0\n")
    before = files(tmp_path)
    assert demo.main(["--output_dir", str(tmp_path / "mine")]) == 2
    assert "is not empty, nor of an earlier demo. Pass another `--output_dir`." in capsys.readouterr().err
    assert files(tmp_path) == before and mine.exists()
