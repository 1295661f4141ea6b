import json
from pathlib import Path

import pytest
from datasets import Dataset
from datasets.exceptions import DatasetsError
from small_data import glue_folder, judgements, write_csv

from hf_worm.commands.glue.arguments import DataArguments
from hf_worm.commands.glue.loading import load_splits
from hf_worm.commands.glue.tasks import TASKS

ROWS = [{"sentence": "NA", "label": 0}, {"sentence": 'a "quoted", word', "label": 1}]


def files(folder: Path, suffix: str) -> DataArguments:
    for name in ("train", "validation"):
        path = folder / f"{name}.{suffix}"
        if suffix == "csv":
            write_csv(path, ROWS)
        elif suffix == "tsv":
            path.write_text('sentence\tlabel\nNA\t0\n"a ""quoted"", word"\t1\n')
        elif suffix == "json":
            path.write_text(json.dumps(ROWS))
        elif suffix == "jsonl":
            path.write_text("\n".join(map(json.dumps, ROWS)))
        else:
            Dataset.from_list(ROWS).to_parquet(path)
    return DataArguments(
        train_file=str(folder / f"train.{suffix}"), validation_file=str(folder / f"validation.{suffix}")
    )


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_files_of_every_type_give_the_same_rows(tmp_path: Path, suffix: str):
    splits = load_splits(files(tmp_path, suffix), None)
    assert list(splits) == ["train", "validation"]
    assert splits["train"].to_list() == splits["validation"].to_list() == ROWS


def test_the_train_file_alone_gives_no_validation_split(tmp_path: Path):
    path = write_csv(tmp_path / "train.csv", ROWS)
    assert list(load_splits(DataArguments(train_file=str(path)), None)) == ["train"]


def test_a_local_folder_in_hub_layout_is_loaded_by_task(tmp_path: Path):
    folder = glue_folder(tmp_path, "sst2", judgements(8))
    splits = load_splits(DataArguments(task_name="sst2", dataset_name=str(folder)), TASKS["sst2"])
    assert list(splits) == ["train", "validation"]
    assert splits["train"].to_list() == judgements(8)


def refusal(train: Path | str, validation: Path | str | None = None) -> str:
    data = DataArguments(train_file=str(train), validation_file=None if validation is None else str(validation))
    with pytest.raises((ValueError, OSError)) as caught:
        load_splits(data, None)
    assert not isinstance(caught.value, DatasetsError)
    return str(caught.value)


def test_bad_files_are_refused(tmp_path: Path):
    good = write_csv(tmp_path / "good.csv", ROWS)
    assert "`train_file` nowhere.csv does not exist" in refusal("nowhere.csv")
    assert "`validation_file` nowhere.csv does not exist" in refusal(good, "nowhere.csv")
    text = tmp_path / "data.txt"
    text.write_text("a")
    assert "must be one of .csv, .tsv, .json, .jsonl, .parquet" in refusal(text)
    lines = tmp_path / "data.jsonl"
    lines.write_text(json.dumps(ROWS[0]))
    assert "must be of one type, got .csv and .jsonl" in refusal(good, lines)


def test_unreadable_files_are_named(tmp_path: Path):
    for name, content in (
        ("a.csv", b"\xff\xfe\x00\n\xff"),
        ("b.json", b"{"),
        ("c.parquet", b"no parquet"),
        ("d.jsonl", b"7"),
    ):
        (tmp_path / name).write_bytes(content)
        assert name in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["a.csv", "b.tsv", "c.json", "d.jsonl", "e.parquet"])
def test_empty_files_are_refused(tmp_path: Path, name: str):
    (tmp_path / name).write_text("\n")
    assert f"{name} is empty: it holds no row" in refusal(tmp_path / name)
    if name in ("a.csv", "b.tsv"):
        (tmp_path / name).write_text("sentence,label\n")
        assert f"{name} is empty: it holds no row" in refusal(tmp_path / name)
    if name == "c.json":
        (tmp_path / name).write_text("[]")
        assert name in refusal(tmp_path / name)


def test_files_with_other_columns_are_refused(tmp_path: Path):
    good = write_csv(tmp_path / "good.csv", ROWS)
    other = write_csv(tmp_path / "other.csv", [{"sentence": "a", "label": 0, "more": 1}])
    assert "good.csv" in refusal(good, other)


def test_a_missing_configuration_is_named(tmp_path: Path):
    folder = glue_folder(tmp_path, "sst2", judgements(8))
    with pytest.raises(ValueError, match=r"'mrpc' not found.*sst2"):
        load_splits(DataArguments(task_name="mrpc", dataset_name=str(folder)), TASKS["mrpc"])
    data = DataArguments(task_name="mrpc", dataset_name=str(folder), dataset_config_name="sst2")
    assert len(load_splits(data, TASKS["mrpc"])["train"]) == 8
