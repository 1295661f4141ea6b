import re
from collections import Counter
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from hf_worm.commands.glue.sentences import (
    CONTRASTS,
    LABELS,
    TRAIN_WORDS,
    VALIDATION_WORDS,
    make_sentences,
    write_sentences,
)


def test_the_same_seed_gives_the_same_sentences():
    assert make_sentences(3, 40, 20) == make_sentences(3, 40, 20)
    assert make_sentences(3, 40, 20) != make_sentences(4, 40, 20)


@pytest.mark.parametrize("seed", range(3))
def test_no_sentence_occurs_twice_and_the_labels_are_balanced(seed: int):
    splits = make_sentences(seed)
    sentences = [row["sentence"] for rows in splits.values() for row in rows]
    assert len(sentences) == len(set(sentences)) == 2000
    for rows in splits.values():
        assert Counter(row["label"] for row in rows) == dict.fromkeys(LABELS, len(rows) // 2)


def test_validation_judges_in_words_that_training_never_uses():
    words = [{word for words in split.values() for word in words} for split in (TRAIN_WORDS, VALIDATION_WORDS)]
    assert not words[0] & words[1]
    for rows, foreign in zip(make_sentences().values(), reversed(words), strict=True):
        assert not any(foreign & set(row["sentence"].split()) for row in rows)


def test_every_contrast_has_a_twin_of_the_same_words_with_the_other_label():
    for rows in make_sentences().values():
        by_words: dict[str, list[str]] = {}
        for row in rows:
            by_words.setdefault(" ".join(sorted(re.findall(r"[\w-]+", row["sentence"]))), []).append(row["label"])
        twins = [labels for labels in by_words.values() if len(labels) > 1]
        assert sum(map(len, twins)) > 0.6 * len(rows)
        assert all(Counter(labels)["negative"] == Counter(labels)["positive"] for labels in twins)


def test_every_contrast_holds_both_judgements():
    assert all(frame.count("{counts}") == frame.count("{yields}") == 1 for frame in CONTRASTS)


@pytest.mark.parametrize("seed", range(3))
def test_a_bag_of_words_is_near_chance(seed: int):
    splits = make_sentences(seed)
    (train, labels), (validation, expected) = (
        ([row["sentence"] for row in rows], [row["label"] for row in rows]) for rows in splits.values()
    )
    vectorizer = CountVectorizer()
    model = LogisticRegression(max_iter=1000).fit(vectorizer.fit_transform(train), labels)
    assert abs(model.score(vectorizer.transform(validation), expected) - 0.5) < 0.06


@pytest.mark.parametrize("size", [0, -2, 7])
def test_an_odd_or_empty_split_is_refused(size: int):
    with pytest.raises(ValueError, match="`validation` must be an even number"):
        make_sentences(0, 10, size)


def test_the_files_hold_the_sentences(tmp_path: Path):
    files = write_sentences(tmp_path / "new", seed=1)
    assert files == {name: tmp_path / "new" / f"{name}.csv" for name in ("train", "validation")}
    lines = files["validation"].read_text(encoding="utf-8").splitlines()
    first = make_sentences(1)["validation"][0]
    assert lines[0] == "sentence,label"
    assert len(lines) == 1 + 400
    assert lines[1].strip('"').startswith(first["sentence"])
    assert lines[1].endswith(first["label"])
