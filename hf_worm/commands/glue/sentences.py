"""A small sentence-classification set made by a grammar, in which negation, contrast and word order decide.

Every contrast has a twin of the same words in another order, with the other label: a bag of words can't tell the two
apart. Half of the judgements are negated, of good words and of bad. The validation sentences judge in words that the
training sentences never use.
"""

import csv
import random
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

LABELS = ("negative", "positive")
TRAIN_WORDS = {
    "negative": ("dreadful", "awful", "dull", "tedious", "poor", "weak", "horrible", "bad", "annoying",
                 "disappointing"),
    "positive": ("wonderful", "superb", "charming", "delightful", "excellent", "brilliant", "pleasant", "good", "great",
                 "lovely"),
}  # fmt: skip
VALIDATION_WORDS = {
    "negative": ("sloppy", "clumsy", "shabby", "mediocre", "terrible", "forgettable", "worthless", "unpleasant"),
    "positive": ("perfect", "impressive", "graceful", "memorable", "refreshing", "splendid", "flawless",
                 "unforgettable"),
}  # fmt: skip
AFFIRMING = ("quite", "truly", "simply", "nothing but", "really", "always")
NEGATING = ("not", "hardly", "far from", "anything but", "never", "by no means")
THINGS = ("plot", "acting", "ending", "room", "breakfast", "service", "view", "soup", "wine", "waiter", "singer",
          "band", "screen", "battery")  # fmt: skip

STATEMENTS = ("the {one} was {counts}", "I found the {one} {counts}", "they say the {one} is {counts}")
SHARE_OF_STATEMENTS = 0.3  # without some of them a model takes many more sentences to find out what the words mean
# `{counts}` is the judgement that the writer ends up with, `{yields}` the opposite one, which it overrules.
CONTRASTS = (
    "the {one} was {yields}, but the {other} was {counts}",
    "although the {one} was {yields}, the {other} was {counts}",
    "the {one} was {counts}, although the {other} was {yields}",
    "even if the {one} was {yields}, the {other} was {counts}",
    "the {one} was {counts}, even if the {other} was {yields}",
    "the {one} used to be {yields} and is now {counts}",
    "the {one} is now {counts} and used to be {yields}",
    "others found the {one} {yields} and I found it {counts}",
    "I found the {one} {counts} and others found it {yields}",
    "we expected the {one} to be {yields} and it was {counts}",
    "the {one} was {counts} and we had expected it to be {yields}",
    "it is wrong to say that the {one} was {yields}, it was {counts}",
    "the {one} was {counts}, it is wrong to say that it was {yields}",
)

Row = dict[str, str]


def make_sentences(seed: int = 0, train: int = 1600, validation: int = 400) -> dict[str, list[Row]]:
    """Make training and validation sentences, half of them of each label.

    Args:
        seed (`int`, *optional*, defaults to 0): The same seed gives the same sentences.
        train (`int`, *optional*, defaults to 1600): Number of training sentences, even.
        validation (`int`, *optional*, defaults to 400): Number of validation sentences, even.

    Returns:
        `dict[str, list[dict[str, str]]]`: `"train"` and `"validation"`: rows with `sentence` and `label`, which is
        `negative` or `positive`. No sentence occurs twice.
    """
    splits = {}
    for split, words, size in (("train", TRAIN_WORDS, train), ("validation", VALIDATION_WORDS, validation)):
        if size < 2 or size % 2:
            raise ValueError(f"`{split}` must be an even number of sentences, at least 2, got {size}.")
        rng = random.Random(f"{seed} {split}")
        rows = [row for twins in islice(_twins(rng, words), size // 2) for row in twins]
        rng.shuffle(rows)
        splits[split] = rows
    return splits


def write_sentences(folder: Path, seed: int = 0, train: int = 1600, validation: int = 400) -> dict[str, Path]:
    """Write [`make_sentences`] to `train.csv` and `validation.csv` in a folder, which is made where it is missing.

    Returns:
        `dict[str, Path]`: The file of each split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, rows in make_sentences(seed, train, validation).items():
        files[split] = folder / f"{split}.csv"
        with files[split].open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["sentence", "label"])
            writer.writeheader()
            writer.writerows(rows)
    return files


def _twins(rng: random.Random, words: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[Row, Row]]:
    seen: set[str] = set()
    while True:
        frame = rng.choice(STATEMENTS if rng.random() < SHARE_OF_STATEMENTS else CONTRASTS)
        one, other = rng.sample(THINGS, 2)
        bad, good = (_judgement(label, words, rng) for label in LABELS)
        negative = frame.format(one=one, other=other, counts=bad, yields=good)
        positive = frame.format(one=one, other=other, counts=good, yields=bad)
        if negative not in seen and positive not in seen:
            seen |= {negative, positive}
            yield {"sentence": negative, "label": "negative"}, {"sentence": positive, "label": "positive"}


def _judgement(label: str, words: Mapping[str, tuple[str, ...]], rng: random.Random) -> str:
    """Write a judgement, such as "quite good", "good" or "far from bad" for `positive`."""
    if rng.random() < 0.5:
        opposite = LABELS[1 - LABELS.index(label)]
        return f"{rng.choice(NEGATING)} {rng.choice(words[opposite])}"
    return f"{rng.choice(('', *AFFIRMING))} {rng.choice(words[label])}".strip()
