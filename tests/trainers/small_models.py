"""What the tests of other people's trainers share: a tokenizer and sentences made here, and what every run leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from training import checkpoints, report, same_weights, weights
from transformers import PreTrainedTokenizerFast

from hf_worm import Ticket, WormTrainerMixin

NOUNS = ["fox", "hen", "worm", "bird", "crow", "toad"]
VERBS = ["sees", "hears", "meets", "eats"]
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "eos_token": "[EOS]"}
VOCABULARY = [*SPECIAL.values(), "the", *NOUNS, *VERBS]
STAGES = ["before_draw", "drawn", "retrained"]


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Words between spaces, each a token; BERT's special tokens around a sentence or a pair."""
    ids = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(word, ids[word]) for word in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **SPECIAL)


def sentences(count: int = 32) -> list[str]:
    """Such as "the fox sees the hen"."""
    generator = torch.Generator().manual_seed(1)

    def draw(words: list[str]) -> str:
        return words[int(torch.randint(len(words), (1,), generator=generator))]

    return [f"the {draw(NOUNS)} {draw(VERBS)} the {draw(NOUNS)}" for _ in range(count)]


def half_is_zero(state_dict: dict[str, torch.Tensor], ticket: Ticket) -> bool:
    """Whether exactly what the ticket prunes is 0 in these weights, and that is half of each of its layers."""
    return all(
        bool((state_dict[name][~mask] == 0).all())
        and bool((state_dict[name][mask] != 0).all())
        and 2 * int(mask.count_nonzero()) == mask.numel()
        for name, mask in ticket.masks.items()
    )


def check_resuming(make: Callable[[Path], WormTrainerMixin], folder: Path) -> None:
    """A run that is resumed in either phase ends as the one that was never interrupted.

    Args:
        make (`Callable`): A trainer with that output folder, on a new copy of the same model every time;
            it saves every 3 of the 4 steps of an epoch.
        folder (`Path`): Where the runs go.
    """
    whole = make(folder / "whole")
    whole.train()
    searched = report(folder / "whole")["search"]["steps"]
    saved = checkpoints(folder / "whole")[2::2]
    steps = [int(checkpoint.name.partition("-")[2]) for checkpoint in saved]
    assert min(steps) < searched < max(steps), "checkpoints of both phases are put to the test"
    assert len(whole.search.history) == 3
    for number, checkpoint in enumerate(saved):
        resumed = make(folder / f"resumed-{number}")
        assert not same_weights(weights(resumed.model), weights(whole.model))
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert same_weights(weights(resumed.model), weights(whole.model)), checkpoint.name
        assert resumed.search.history == whole.search.history, checkpoint.name
        assert resumed.state.global_step == whole.state.global_step, checkpoint.name
        assert metrics(resumed) == metrics(whole), checkpoint.name


def metrics(trainer: WormTrainerMixin) -> dict[str, Any]:
    """The metrics by stage, but for TRL's count of tokens, which starts anew with each process."""
    return {
        stage: {name: value for name, value in found.items() if name != "num_tokens"}
        for stage, found in trainer.progress.metrics.items()
    }
