"""Train in processes that are killed and resumed until they end: for test_kills.py and `benchmarks/`'s kills.py."""

import contextlib
import gc
import hashlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from training import SmallCNN, examples, images, report, small_bert, worm_trainer
from transformers import BertForSequenceClassification

from hf_worm import Ticket, WormConfig
from hf_worm.checkpoint.whole import whole_before

DONE, REFUSED = "done", "refused"


@dataclass(frozen=True)
class Scenario:
    """One way to train: what, the target, and when the masks are taken.

    What: `bert`, `continued` (the same under one schedule), `compact` (it loses neurons and heads),
    `faster` (to a speed, and distilled) or `cnn`.
    """

    model: str
    target: str
    sampling: str
    save_steps: int = 3

    def __str__(self) -> str:
        return f"{self.model}, {self.target} target, sampled by {self.sampling}"


@dataclass
class Tally:
    """What became of the kills: each is one of the first three."""

    before_a_checkpoint: int = 0
    between_checkpoints: int = 0
    while_saving: int = 0
    refused: int = 0
    differing: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.before_a_checkpoint + self.between_checkpoints + self.while_saving


def train(folder: Path, scenario: Scenario) -> None:
    """Begin, or go on with `resume_from_checkpoint=True`; where that is refused, with the checkpoint that is named."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "output.txt", "a") as output, contextlib.redirect_stdout(output):
        torch.set_num_threads(1)
        gc.freeze()  # what was imported; else half of a training's time goes into collecting
        resume: str | bool = any(folder.glob("checkpoint-*"))
        try:
            trainer = make_trainer(folder, scenario)
            trainer.train(resume_from_checkpoint=resume)
        except ValueError as refusal:
            with open(folder / REFUSED, "a") as refusals:
                refusals.write(f"{refusal}\n")
            named = re.search(r"whole checkpoint before it is (\S+): ", str(refusal))
            if named is None and "There is no whole checkpoint before it" not in str(refusal):
                raise
            trainer = make_trainer(folder, scenario)
            trainer.train(resume_from_checkpoint=named[1] if named else None)
        trainer.save_model()
        (folder / DONE).touch()


def make_trainer(folder: Path, scenario: Scenario) -> Any:
    torch.manual_seed(0)
    rows = images() if scenario.model == "cnn" else examples()
    model = SmallCNN() if scenario.model == "cnn" else BertForSequenceClassification(small_bert())
    presets = {"cnn": WormConfig.cnn, "compact": compact, "continued": continued, "faster": faster}
    preset = presets.get(scenario.model, WormConfig)
    sampling = {"sample_strategy": "steps", "sample_steps": 5} if scenario.sampling == "steps" else {}
    settings = {"window": 3, "stopping_point": 0.3, "margin": 0.3, "truncation_target": scenario.target, **sampling}
    return worm_trainer(
        model,
        folder,
        preset(**settings),
        train_dataset=rows,
        eval_dataset=rows[:16],
        save_strategy="steps",
        save_steps=scenario.save_steps,
    )


def compact(**settings: Any) -> WormConfig:
    return WormConfig(layers=["neurons", "heads"], compact=True, **{**settings, "stopping_point": 0.9})


def continued(**settings: Any) -> WormConfig:
    return WormConfig(retrain_schedule="continue", **settings)


def faster(**settings: Any) -> WormConfig:
    return WormConfig.faster(1.3, **settings, speedup_by="multiply_adds", distillation=0.5)


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves but for its seconds: weights and masks by their digests, history and report."""
    found: dict[str, Any] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "worm_history.json", "worm_config.json")
    }
    # Not by the file: safetensors puts its metadata into another order each time.
    found["masks"] = {name: mask.tolist() for name, mask in Ticket.from_pretrained(folder).masks.items()}
    written = report(folder)
    for phase in ("search", "draw", "retrain"):
        del written[phase]["seconds"]
    written.get("costs", {}).pop("seconds", None)
    written.get("speedup", {}).pop("measured", None)
    return {**found, "report": written}


class Killer:
    """Starts training processes, all from one that has imported everything, and kills them.

    Args:
        seed (`int`): Of the moments.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.context = multiprocessing.get_context("forkserver")
        # Not `killing`: the server does not find what is beside the tests, and says nothing.
        self.context.set_forkserver_preload(["hf_worm", "transformers.models.bert.modeling_bert"])
        self.tally = Tally()
        self.seconds: dict[Scenario, float] = {}  # of a run that nothing came between

    def uninterrupted(self, folder: Path, scenario: Scenario) -> dict[str, Any]:
        """What the run leaves when nothing happens."""
        begun = time.perf_counter()
        self._finish(self._start(folder, scenario))
        self.seconds[scenario] = time.perf_counter() - begun
        return outcome(folder)

    def killed(self, folder: Path, scenario: Scenario, kills: int) -> dict[str, Any]:
        """What a run that was [`uninterrupted`] before leaves when it is killed so often, at any moment; at least once.

        Every other time it is the next checkpoint that is waited for, and the kill comes while it is written. A run
        that ends before its kill comes is killed less often.
        """
        before = self.tally.kills
        while self.tally.kills == before:
            shutil.rmtree(folder, ignore_errors=True)
            self._kill(folder, scenario, kills)
        if not (folder / DONE).exists():
            self._finish(self._start(folder, scenario))
        if (folder / REFUSED).exists():
            self.tally.refused += len((folder / REFUSED).read_text().splitlines())
        return outcome(folder)

    def _kill(self, folder: Path, scenario: Scenario, kills: int) -> None:
        left = kills
        while left:
            begun = time.perf_counter()
            process = self._start(folder, scenario)
            if left % 2:
                self._wait_until_saving(process, folder)
                time.sleep(self.random.uniform(0, 0.01))
            else:
                process.join(self.random.uniform(0.2, 1.0) * self.seconds[scenario])
            if process.exitcode is not None:
                self._finish(process)
                if left == kills:  # it was faster than when nothing came between
                    self.seconds[scenario] = time.perf_counter() - begun
                return
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            left -= 1
            self._count(folder)

    def _start(self, folder: Path, scenario: Scenario) -> Any:
        process = self.context.Process(target=train, args=(folder, scenario))
        process.start()
        return process

    def _finish(self, process: Any) -> None:
        process.join(300)
        assert process.exitcode == 0, f"a training process that nobody killed ended with {process.exitcode}"

    def _wait_until_saving(self, process: Any, folder: Path) -> None:
        there = self._saved(folder)
        wanted = self.random.randint(1, 4)  # the first new checkpoint, or a later one
        while process.is_alive() and len(self._saved(folder) - there) < wanted:
            time.sleep(0.0005)

    def _saved(self, folder: Path) -> set[str]:
        return {path.name for path in folder.glob("checkpoint-*")}

    def _count(self, folder: Path) -> None:
        saved = self._saved(folder)
        if not saved:
            self.tally.before_a_checkpoint += 1
            return
        newest = max(int(name.partition("-")[2]) for name in saved)
        whole = whole_before(folder / f"checkpoint-{newest + 1}")
        if whole is not None and whole.name == f"checkpoint-{newest}":
            self.tally.between_checkpoints += 1
        else:
            self.tally.while_saving += 1
