"""What tests/test_hub_server.py runs beside itself: `FOLDER`, and lines of scenarios on stdin, each one in a fork.

Transformers, which takes seconds to import, is imported before the forks, and `hf_worm` after them: that one of them
loads a checkpoint without it is part of the tests. The answer to a line is the exit codes of its scenarios.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hub_server import OWNER, READER
from huggingface_hub import ModelCard, get_session, snapshot_download, upload_file
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    Trainer,  # noqa: F401  # what imports most
)

EVERY_SAVE = {
    "push_to_hub": True,
    "hub_strategy": "every_save",
    "hub_always_push": True,
    "save_strategy": "epoch",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": EVERY_SAVE,
    "again": EVERY_SAVE,
    "compact": EVERY_SAVE,
    "flaky": {},
    "refused": {"hub_token": "hf_of_nobody"},
    "forbidden": {**EVERY_SAVE, "hub_token": READER},
    "broken": EVERY_SAVE,
    "cut": {},
    "slow": {},
}


def push(folder: Path, name: str, resume_from: str | None = None, config: Any = None, **changes: Any) -> None:
    """Train into `folder/name` and push; what is not to be pushed while it trains is pushed in the end."""
    from training import accuracy, examples, worm_trainer

    get_session().timeout = 8 if name == "slow" else 120  # seconds; the client's own is none at all
    trainer = worm_trainer(
        BertForSequenceClassification.from_pretrained(folder / "start"),
        folder / name,
        config,
        hub_model_id=f"{OWNER}/{name}",
        eval_dataset=examples(),
        compute_metrics=accuracy,
        **{**SETTINGS[name], **changes},
    )
    trainer.train(resume_from_checkpoint=resume_from)
    trainer.push_to_hub(
        tasks="text-classification",
        language="en",
        tags="mine",
        dataset_tags="nyu-mll/glue",
        dataset="GLUE MRPC",
        dataset_args="mrpc",
    )


def resume(folder: Path) -> None:
    """Go on from the first checkpoint of the run whose push was forbidden, with a token that may write."""
    from training import checkpoints

    push(folder, "forbidden", str(checkpoints(folder / "forbidden")[0]), hub_token=None)


def again(folder: Path) -> None:
    """Begin another run in the folder of one that is finished."""
    shutil.copytree(folder / "bert", folder / "again")
    push(folder, "again")


def push_smaller(folder: Path) -> None:
    """Train and push a model whose configuration can't say its shapes."""
    from hf_worm import WormConfig

    push(folder, "compact", config=WormConfig(layers=["heads", "neurons"], stopping_point=0.9, compact=True))


def load_smaller(folder: Path) -> None:
    """Load that model, from its first commit, which is of the search, and from the newest."""
    repo, loaded = f"{OWNER}/compact", folder / "loaded" / "compact"
    loaded.mkdir(parents=True)
    try:
        AutoModelForSequenceClassification.from_pretrained(repo)
    except RuntimeError as error:
        (loaded / "plain.txt").write_text(str(error))

    from hf_worm import load_compact

    revisions = json.loads((folder / "revisions.json").read_text())["compact"]
    for name, revision in (("newest", "main"), ("first", revisions[1])):
        load_compact(repo, revision=revision).save_pretrained(loaded / name)


def push_code(folder: Path) -> None:
    """Train and push a model that carries its code."""
    from training import images, worm_trainer

    from hf_worm import WormConfig
    from hf_worm.models import CifarResNetConfig, CifarResNetForImageClassification

    shape = CifarResNetConfig(num_channels=1, image_size=8, width=4, depths=[1], num_labels=2)
    trainer = worm_trainer(
        CifarResNetForImageClassification(shape),
        folder / "cnn",
        WormConfig.cnn(window=2, stopping_point=0.5),
        train_dataset=images(),
        hub_model_id=f"{OWNER}/cnn",
        **EVERY_SAVE,
    )
    trainer.train()
    trainer.push_to_hub()


def load_code(folder: Path) -> None:
    """Load the model that carries its code where there is no `hf_worm`."""
    revisions = json.loads((folder / "revisions.json").read_text())["cnn"]
    for name, revision in (("newest", "main"), ("first", revisions[1])):
        model = AutoModelForImageClassification.from_pretrained(
            f"{OWNER}/cnn", revision=revision, trust_remote_code=True
        )
        assert not [module for module in sys.modules if module.partition(".")[0] == "hf_worm"]
        model.save_pretrained(folder / "loaded" / "cnn" / name)


def load(folder: Path) -> None:
    """Load everything of the first run, newest and by revision, and say what goes wrong where there is nothing."""
    repo, loaded = f"{OWNER}/bert", folder / "loaded"
    revisions = json.loads((folder / "revisions.json").read_text())["bert"]
    for name, revision in (("newest", "main"), ("first", revisions[1])):
        model = AutoModelForSequenceClassification.from_pretrained(repo, revision=revision)
        model.save_pretrained(loaded / "bert" / name)
    snapshot_download(repo, local_dir=loaded / "snapshot")

    from hf_worm import Ticket, WormConfig

    Ticket.from_pretrained(repo).save_pretrained(loaded / "ticket" / "newest")
    Ticket.from_pretrained(repo, revision=revisions[-2]).save_pretrained(loaded / "ticket" / "last_but_one")
    WormConfig.from_pretrained(repo).save_pretrained(loaded / "config")

    card = ModelCard.load(repo)
    (loaded / "card.json").write_text(json.dumps(card.data.to_dict()))
    card.data.tags = [{"not": "a tag"}]

    attempts: dict[str, Callable[[], object]] = {
        "invalid card": lambda: upload_file(  # as `card.validate()`, which asks huggingface.co before version 2
            path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id=f"{OWNER}/plain"
        ),
        "no ticket": lambda: Ticket.from_pretrained(f"{OWNER}/plain"),
        "no settings": lambda: WormConfig.from_pretrained(f"{OWNER}/plain"),
        "no ticket yet": lambda: Ticket.from_pretrained(repo, revision=revisions[1]),
        "no repository": lambda: Ticket.from_pretrained(f"{OWNER}/nothing"),
        "no revision": lambda: Ticket.from_pretrained(repo, revision="v9"),
        "unknown token": lambda: Ticket.from_pretrained(repo, revision=revisions[-3], token="hf_of_nobody"),
        "no id": lambda: Ticket.from_pretrained("run/of/mine"),
        "old parent": lambda: upload_file(
            path_or_fileobj=b"", path_in_repo="empty", repo_id=f"{OWNER}/plain", parent_commit="0" * 40
        ),
    }
    errors: dict[str, list[str]] = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:  # what it is, the test says
            errors[name] = [type(error).__name__, str(error)]
    (loaded / "errors.json").write_text(json.dumps(errors))


def main(folder: Path) -> None:
    others = {"again": again, "cnn": push_code, "resume": resume, "load": load, "load_code": load_code}
    others |= {"compact": push_smaller, "load_smaller": load_smaller}
    for line in sys.stdin:
        children = {}
        for name in line.split():
            if (child := os.fork()) == 0:
                log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
                torch.manual_seed(0)
                return others[name](folder) if name in others else push(folder, name)
            children[name] = child
        codes = {name: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for name, child in children.items()}
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
