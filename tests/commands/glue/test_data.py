import logging
from pathlib import Path

import pytest
from datasets import Dataset
from small_data import judgements
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hf_worm.commands.glue.arguments import DataArguments
from hf_worm.commands.glue.data import labelled, text_columns, tokenized
from hf_worm.commands.glue.tasks import TASKS

SST2, RTE, STSB = TASKS["sst2"], TASKS["rte"], TASKS["stsb"]
DATA = DataArguments(task_name="sst2", max_seq_length=16)


@pytest.fixture
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model)


def columns(**values: object) -> Dataset:
    return Dataset.from_dict({name: [value] for name, value in values.items()})


@pytest.mark.parametrize(
    ("dataset", "found"),
    [
        (columns(sentence2="b", label=0, sentence1="a", sentence="c"), ("sentence1", "sentence2")),
        (columns(title="a", sentence="b", label=0), ("sentence",)),
        (columns(title="a", text="b", label=0), ("text",)),
        (columns(id=7, review="a", label="x"), ("review",)),
        (columns(question="a", id=7, answer="b", label="x", more="c"), ("question", "answer")),
    ],
)
def test_the_text_is_found(dataset: Dataset, found: tuple[str, ...]):
    assert text_columns(dataset) == found


def test_a_guess_at_the_text_is_said(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        text_columns(columns(review="a", label=0))
    assert "Taking the text from `review`" in caplog.text


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (columns(id=7, label="x"), "no column of text, only `id`, `label`"),
        (columns(sentence="a", target=0), "no column `label`: it needs `label`, and has `sentence`, `target`"),
    ],
)
def test_data_without_text_or_label_is_refused(dataset: Dataset, message: str):
    with pytest.raises(ValueError, match=message):
        text_columns(dataset)


def test_a_split_keeps_its_text_and_its_labels():
    split = labelled(Dataset.from_list(judgements(8)).add_column("id", list(range(8))), "train", SST2, 3)
    assert split.column_names == ["sentence", "labels"]
    assert split.to_list() == [{"sentence": row["sentence"], "labels": row["label"]} for row in judgements(3)]


def test_a_limit_beyond_the_split_keeps_all_of_it():
    assert len(labelled(Dataset.from_list(judgements(8)), "train", SST2, 100)) == 8


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Dataset.from_dict({"sentence": [], "label": []}), "The train split is empty"),
        (columns(text="a", label=0), "no column `sentence`: it needs `sentence`, `label`, and has `text`, `label`"),
        (columns(sentence="a"), "no column `label`"),
        (columns(sentence=1, label=0), "column `sentence` of the train split must hold text, got"),
        (Dataset.from_dict({"sentence": ["a", None], "label": [0, 1]}), "Row 2 of the train split has no `sentence`"),
        (columns(sentence="a", label=2), "row 1 of the train split is 2"),
    ],
)
def test_a_split_that_wont_do_is_refused(dataset: Dataset, message: str):
    with pytest.raises(ValueError, match=message):
        labelled(dataset, "train", SST2, None)


def test_sentences_and_pairs_are_tokenized(tokenizer: PreTrainedTokenizerBase):
    split = labelled(columns(sentence="the film was good", label=1), "train", SST2, None)
    row = tokenized(split, SST2, tokenizer, (0, 1), DATA)[0]
    assert tokenizer.decode(row["input_ids"]) == "[CLS] the film was good [SEP]"
    assert row["labels"] == 1
    pair = labelled(columns(sentence1="the film was good", sentence2="the song", label=1), "train", RTE, None)
    row = tokenized(pair, RTE, tokenizer, (0, 1), DATA)[0]
    assert tokenizer.decode(row["input_ids"]) == "[CLS] the film was good [SEP] the song [SEP]"
    assert row["token_type_ids"] == [0] * 6 + [1] * 3


def test_length_and_padding(tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture):
    split = labelled(columns(sentence="the " * 100, label=1), "train", SST2, None)

    def length(text: Dataset, **settings: object) -> int:
        data = DataArguments(task_name="sst2", overwrite_cache=True, **settings)  # type: ignore[arg-type]
        return len(tokenized(text, SST2, tokenizer, (0, 1), data)[0]["input_ids"])

    assert length(split, max_seq_length=10) == 10
    assert caplog.text == ""
    assert length(split, max_seq_length=100) == 32  # the tokenizer's own limit
    assert "32 tokens at the most, not the 100" in caplog.text
    short = labelled(columns(sentence="the film", label=1), "train", SST2, None)
    assert length(short, max_seq_length=10) == 4
    assert length(short, max_seq_length=10, pad_to_max_length=True) == 10


def test_class_ids_become_the_models_and_numbers_stay(tokenizer: PreTrainedTokenizerBase):
    split = labelled(Dataset.from_list(judgements(4)), "train", SST2, None)
    assert tokenized(split, SST2, tokenizer, (1, 0), DATA)["labels"][:] == [1, 0, 1, 0]
    scored = labelled(columns(sentence1="a", sentence2="b", label=2.5), "train", STSB, None)
    assert tokenized(scored, STSB, tokenizer, (), DATA)["labels"][:] == [2.5]
