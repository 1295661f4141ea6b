from pathlib import Path

import pytest
from datasets import Dataset

from hf_worm.commands.job.loading import check_columns, load_folder_or_hub, train_split, validation_splits
from hf_worm.commands.job.task import Task

ROWS = [{"text": "NA", "label": 0}, {"text": 'a "quoted", word', "label": 1}]
TASK = Task("mine", ("text",), ("a", "b"), ("accuracy",))
TWO_SETS = Task("two", ("text",), ("a", "b"), ("accuracy",), (("near", "validation_near"), ("far", "validation_far")))


def folder_of(parent: Path, *splits: str, rows: int = 2) -> str:
    """A folder `set` with a file for each split, and the README of a data set."""
    for split in splits:
        Dataset.from_list((ROWS * rows)[:rows]).to_parquet(parent / "set" / f"{split}.parquet")
    files = "".join(f"  - split: {split}\n    path: {split}.parquet\n" for split in splits)
    (parent / "set" / "README.md").write_text(f"---\nconfigs:\n- config_name: all\n  data_files:\n{files}---\n")
    return str(parent / "set")


def test_a_local_folder_is_loaded_as_it_is(tmp_path: Path):
    splits = load_folder_or_hub(folder_of(tmp_path, "train", "validation"), cache_dir=str(tmp_path / "cache"))
    assert list(splits) == ["train", "validation"]
    assert splits["train"].to_list() == splits["validation"].to_list() == ROWS


def test_a_folder_in_the_users_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder_of(tmp_path, "train")
    assert list(load_folder_or_hub("~/set", cache_dir=str(tmp_path / "cache"))) == ["train"]


def test_a_folder_that_changed_and_its_namesake_are_read_anew(tmp_path: Path):
    def rows(parent: str, count: int) -> int:
        folder = folder_of(tmp_path / parent, "train", rows=count)
        return len(load_folder_or_hub(folder, cache_dir=str(tmp_path / "cache"))["train"])

    assert [rows("one", 8), rows("other", 16), rows("one", 24)] == [8, 16, 24]


def test_a_missing_folder_is_named(tmp_path: Path):
    for name in (str(tmp_path / "nowhere"), "./nowhere", "no/such/folder"):
        with pytest.raises(FileNotFoundError, match=r" is a folder that does not exist"):
            load_folder_or_hub(name)


def test_an_unreadable_folder_is_named(tmp_path: Path):
    folder = Path(folder_of(tmp_path, "train"))
    (folder / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=f"Can't load the data from {folder}"):
        load_folder_or_hub(str(folder), cache_dir=str(tmp_path / "cache"))


def test_a_set_that_is_not_on_the_hub_is_an_error_of_one_kind():
    with pytest.raises(OSError, match="no/such-set"):
        load_folder_or_hub("no/such-set")


def test_a_task_has_its_own_validation_splits_or_the_one_of_that_name():
    rows = Dataset.from_list(ROWS)
    both = {"train": rows, "validation_near": rows, "validation_far": rows}
    one = {"train": rows, "validation": rows}
    assert list(validation_splits(both, TWO_SETS)) == ["near", "far"]
    assert [list(validation_splits(one, task)) for task in (TWO_SETS, TASK, None)] == [[""]] * 3
    with pytest.raises(ValueError, match=r"no split `validation_near` and `validation_far` to evaluate on"):
        validation_splits({"train": rows}, TWO_SETS)
    with pytest.raises(ValueError, match=r"no split `validation` to evaluate on, only `train`. Or pass `--do_eval f"):
        validation_splits({"train": rows}, None)


def test_a_set_without_training_split_is_refused():
    rows = Dataset.from_list(ROWS)
    assert train_split({"train": rows}) is rows
    with pytest.raises(ValueError, match="no split `train`, only `test`"):
        train_split({"test": rows})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"text": [], "label": []}, "The train split is empty"),
        ({"review": ["a"], "label": [0]}, "no column `text`: it needs `text`, `label`, and has `review`, `label`"),
        ({"text": ["a"]}, "no column `label`"),
        ({"review": ["a"]}, "no column `text`, `label`"),
    ],
)
def test_a_split_without_rows_or_columns_is_refused(rows: dict[str, list[object]], message: str):
    check_columns(Dataset.from_list(ROWS), ("text",), "train")
    with pytest.raises(ValueError, match=message):
        check_columns(Dataset.from_dict(rows), ("text",), "train")
