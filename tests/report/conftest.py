"""Runs that are made once; the tests read them, and change only copies."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import Runs, make_runs
from transformers import BertForSequenceClassification


@pytest.fixture(scope="session")
def runs(_bert: BertForSequenceClassification, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return make_runs(_bert, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def copied(tmp_path: Path) -> Callable[..., Path]:
    """Copies a run's folder, or only the files named, to be changed."""

    def copy(run: Path, *only: str) -> Path:
        folder = tmp_path / f"copy of {run.name}{' alone' if only else ''}"
        if not only:
            return shutil.copytree(run, folder)
        folder.mkdir()
        for name in only:
            shutil.copy(run / name, folder)
        return folder

    return copy
