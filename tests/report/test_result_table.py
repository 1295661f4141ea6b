"""The table that a run ends with."""

from small_report import REPORT, small_report

from hf_worm.report.terminal import plain_table, result_table


def test_the_table_says_what_the_report_says() -> None:
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


def test_without_retraining_there_is_no_row_for_it() -> None:
    report = small_report(truncation=1.0)
    del report["metrics"]["retrained"], report["retrain"]
    report["search"]["converged"] = False
    table = result_table(report)
    assert "retrained" not in table
    assert table.startswith("EB Train (p 0.5, r 1,")
    assert "3 observations, not converged, the newest mask was drawn" in table


def test_fading_is_named_with_its_time() -> None:
    first = "WORM with fading (p 0.5, r 0.003, s 0.01, δ 0.005, l 3, faded in 0.5 epochs): 3 observations, converged"
    assert result_table(small_report(truncation_target="fade", fade_epochs=0.5)).splitlines()[0] == first


def test_without_evaluation_the_costs_remain() -> None:
    report = small_report()
    report["metrics"] = {}
    assert result_table(report).splitlines()[1:3] == [
        "                 epochs  seconds",
        "before the draw    3.00     12.3",
    ]


def test_a_run_without_pruning_has_one_row() -> None:
    assert plain_table("fine-tuned", {"loss": 0.5, "pearson": 0.75}, 2.0, 3.0).splitlines() == [
        "Nothing pruned",
        "            pearson    loss  epochs  seconds",
        "fine-tuned   0.7500  0.5000    2.00      3.0",
    ]
    assert plain_table("evaluated", {"accuracy": 0.75}).splitlines()[::2] == ["Nothing trained", "evaluated    0.7500"]
