import copy

import pytest

from hf_worm.report.table import aligned, counted, plain_table, result_table

REPORT = {
    "metrics": {
        "before_draw": {"loss": 0.41, "accuracy": 0.85, "f1": 0.9},
        "drawn": {"loss": 0.45, "accuracy": 0.8, "f1": 0.88},
        "retrained": {"loss": 0.4, "accuracy": 0.86, "f1": 0.91},
    },
    "search": {"epochs": 3.0, "steps": 345, "seconds": 12.34, "converged": True, "observations": [{}, {}, {}]},
    "draw": {"seconds": 0.26},
    "retrain": {"epochs": 1.0, "steps": 115, "seconds": 4.5},
    "account": {
        "pruned_weights": 7_077_888,
        "representative_weights": 14_155_776,
        "model_weights": 109_483_778,
        "share_of_representative": 0.5,
        "share_of_model": 0.0646,
        "note": "Zeros make no dense product faster. " * 6,
    },
    "config": {
        "prune_ratio": 0.5,
        "truncation": 0.003,
        "stopping_point": 0.01,
        "margin": 0.005,
        "window": 3,
        "layers": ["query", "key"],
    },
}


def test_the_table_says_what_the_report_says():
    lines = result_table(REPORT).splitlines()
    assert lines[:6] == [
        "WORM (p 0.5, r 0.003, s 0.01, δ 0.005, l 3): 3 observations, converged",
        "                 accuracy      f1    loss  epochs  seconds",
        "before the draw    0.8500  0.9000  0.4100    3.00     12.3",
        "drawn              0.8000  0.8800  0.4500              0.3",
        "retrained          0.8600  0.9100  0.4000    1.00      4.5",
        "Pruned: 7,077,888 weights, 50.0% of query, key and 6.5% of the model's 109,483,778.",
    ]
    assert " ".join(lines[6:]) == REPORT["account"]["note"].strip()
    assert max(map(len, lines)) <= 120


def test_without_retraining_there_is_no_row_for_it():
    report = copy.deepcopy(REPORT)
    del report["metrics"]["retrained"], report["retrain"]
    report["search"]["converged"] = False
    report["config"]["truncation"] = 1.0
    table = result_table(report)
    assert "retrained" not in table
    assert table.startswith("EB Train (p 0.5, r 1,")
    assert "not converged, the newest mask was drawn" in table


def test_fading_is_named_with_its_time():
    report = copy.deepcopy(REPORT)
    report["config"] |= {"truncation_target": "fade", "fade_epochs": 0.5}
    first = "WORM with fading (p 0.5, r 0.003, s 0.01, δ 0.005, l 3, faded in 0.5 epochs): 3 observations, converged"
    assert result_table(report).splitlines()[0] == first


def test_without_evaluation_the_costs_remain():
    report = copy.deepcopy(REPORT)
    report["metrics"] = {}
    assert result_table(report).splitlines()[1:3] == [
        "                 epochs  seconds",
        "before the draw    3.00     12.3",
    ]


def test_a_run_without_pruning_has_one_row():
    assert plain_table("fine-tuned", {"loss": 0.5, "pearson": 0.75}, 2.0, 3.0).splitlines() == [
        "Nothing pruned",
        "            pearson    loss  epochs  seconds",
        "fine-tuned   0.7500  0.5000    2.00      3.0",
    ]
    assert plain_table("evaluated", {"accuracy": 0.75}).splitlines()[::2] == ["Nothing trained", "evaluated    0.7500"]


def test_columns_are_aligned():
    assert aligned([["", "a"], ["long", "1.0"]]) == ["        a", "long  1.0"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1 step"), (0, "0 steps"), (2.5, "2.5 steps"), (1 / 3, "0.33 steps"), (1_234_567, "1,234,567 steps")],
)
def test_counts_are_written_out(value: float, text: str):
    assert counted(value, "step") == text
