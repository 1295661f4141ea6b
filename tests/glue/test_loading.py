import json
from pathlib import Path

import pytest
from datasets import Dataset
from datasets.exceptions import DatasetsError
from small_data import glue_folder, judgements, write_csv

from hf_worm.glue.arguments import DataArguments
from hf_worm.glue.loading import load_splits, train_split, validation_splits
from hf_worm.glue.tasks import TASKS

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
    assert splits["train"].to_list() == judgements(8)
    assert list(validation_splits(splits, TASKS["sst2"])) == [""]


def test_a_folder_that_changed_and_its_namesake_are_read_anew(tmp_path: Path):
    def rows(parent: str, count: int) -> int:
        (tmp_path / parent).mkdir(exist_ok=True)
        folder = glue_folder(tmp_path / parent, "sst2", judgements(count))
        return len(load_splits(DataArguments(task_name="sst2", dataset_name=str(folder)), TASKS["sst2"])["train"])

    assert [rows("one", 8), rows("other", 16), rows("one", 24)] == [8, 16, 24]


def test_mnli_has_its_two_validation_splits_or_one_of_ones_own():
    rows = Dataset.from_list(ROWS)
    both = {"train": rows, "validation_matched": rows, "validation_mismatched": rows}
    assert list(validation_splits(both, TASKS["mnli"])) == ["matched", "mismatched"]
    assert list(validation_splits({"train": rows, "validation": rows}, TASKS["mnli"])) == [""]
    with pytest.raises(ValueError, match="no split `validation_matched` and `validation_mismatched` to evaluate on"):
        validation_splits({"train": rows}, TASKS["mnli"])


def test_a_set_without_training_split_is_refused():
    with pytest.raises(ValueError, match="no split `train`, only `test`"):
        train_split({"test": Dataset.from_list(ROWS)})


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


def test_a_missing_folder_or_configuration_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is a folder that does not exist"):
        load_splits(DataArguments(dataset_name=str(tmp_path / "nowhere")), None)
    folder = glue_folder(tmp_path, "sst2", judgements(8))
    with pytest.raises(ValueError, match=r"'mrpc' not found.*sst2"):
        load_splits(DataArguments(task_name="mrpc", dataset_name=str(folder)), TASKS["mrpc"])


def test_a_set_that_is_not_on_the_hub_is_an_error_of_one_kind():
    with pytest.raises(OSError, match="no/such-set"):
        load_splits(DataArguments(dataset_name="no/such-set"), None)
