"""`methods.py` and `reproduce.py` of `benchmarks/accuracy`: each method prunes what it says; no run is repeated."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_data import glue_folder, judgements

from hf_worm import TicketSearch, WormConfig, WormTrainer
from hf_worm.scores import Magnitude
from hf_worm.units import representative_layers

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.append(str(BENCHMARKS / "accuracy"))
methods, protocol = importlib.import_module("methods"), importlib.import_module("protocol")

RATIO = 0.75
STEPS_OF_AN_EPOCH = 1  # 32 rows in a batch of 32


@pytest.fixture
def scale(tiny_model: Path) -> Any:
    arguments = ("--learning_rate", "1e-2")
    return protocol.replace(protocol.SCALES["dry"], text_model=str(tiny_model), text_arguments=arguments)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return glue_folder(tmp_path, "sst2", judgements(32)).parent


def train(method: str, scale: Any, data: Path, folder: Path) -> tuple[dict[str, Any], list[WormTrainer]]:
    """What a method says of its run, and the trainers that it made."""
    truncation = 0.003 if method.startswith(("worm", "fade")) else 1.0
    search_epochs = 4.0 if method == "fade_throughout" else 3.0
    setting = protocol.Setting(
        "sst2", method, seed=1, prune_ratio=RATIO, truncation=truncation, search_epochs=search_epochs
    )
    made: list[WormTrainer] = []

    def build(**changes: Any) -> WormTrainer:
        made.append(methods.build_trainer(setting, scale, data, str(folder), changes))
        return made[-1]

    return methods.BY_NAME[method](setting, build, folder / "cache"), made


def masks(model: torch.nn.Module, ratio: float = RATIO) -> dict[str, torch.Tensor]:
    search = TicketSearch(model, WormConfig(prune_ratio=ratio))
    search.observe()
    return search.masks


@pytest.mark.parametrize("method", [*protocol.METHODS, *protocol.FADING])
def test_each_method_prunes_the_ratio_and_takes_the_same_steps(
    method: str, scale: Any, data: Path, tmp_path: Path
) -> None:
    outcome, trainers = train(method, scale, data, tmp_path / "run")
    assert outcome["steps"] == 4 * STEPS_OF_AN_EPOCH
    weights = {
        name: weight for name, weight in trainers[-1].model.named_parameters() if name in masks(trainers[-1].model)
    }
    assert len(weights) == 4
    for weight in weights.values():
        zeros = int((weight == 0).sum())
        assert zeros == (0 if method in protocol.DENSE else round(RATIO * weight.numel()))
    stages = {"dense": {"dense"}, "gradual": {"drawn", "retrained"}}
    assert set(outcome["metrics"]) == stages.get(method, {"before_draw", "drawn", "retrained"})
    json.dumps(outcome)


def pruned_at_the_draw(method: str, scale: Any, data: Path, folder: Path) -> dict[str, torch.Tensor]:
    _, trainers = train(method, scale, data, folder)
    assert trainers[-1].ticket is not None
    return trainers[-1].ticket.masks


def test_before_prunes_the_pretrained_weights(scale: Any, data: Path, tmp_path: Path) -> None:
    setting = protocol.Setting("sst2", "before", seed=1)
    untrained = partial(methods.build_trainer, setting, scale, data, str(tmp_path / "new"))({})
    found = pruned_at_the_draw("before", scale, data, tmp_path / "run")
    assert all(torch.equal(found[name], mask) for name, mask in masks(untrained.model).items())


def test_one_shot_prunes_the_trained_weights_and_random_does_not(scale: Any, data: Path, tmp_path: Path) -> None:
    by_size = pruned_at_the_draw("one_shot", scale, data, tmp_path / "one")
    eb_train = pruned_at_the_draw("eb_train", scale, data, tmp_path / "eb")
    before = pruned_at_the_draw("before", scale, data, tmp_path / "before")
    random = pruned_at_the_draw("random", scale, data, tmp_path / "random")
    assert all(torch.equal(by_size[name], mask) for name, mask in eb_train.items()), "both searched for three epochs"
    assert any(not torch.equal(by_size[name], mask) for name, mask in before.items())
    for name, mask in random.items():
        agreement = (mask == by_size[name]).float().mean().item()
        assert abs(agreement - (RATIO**2 + (1 - RATIO) ** 2)) < 0.1, "as of two independent masks"


@pytest.mark.parametrize(("method", "power"), [("fade_linear", 1), ("fade_cubic", 3)])
def test_a_schedule_takes_the_doomed_weights_to_zero_by_its_curve(
    method: str, power: int, scale: Any, tmp_path: Path
) -> None:
    scale = protocol.replace(scale, rows={}, text_arguments=("--learning_rate", "1e-9"))  # all else stands still
    data = glue_folder(tmp_path, "sst2", judgements(32) * 4).parent  # 4 steps an epoch
    setting = protocol.Setting("sst2", method, seed=1, fade_epochs=2.0, truncate_from="start", prune_ratio=RATIO)
    trainer = methods.build_trainer(setting, scale, data, str(tmp_path / "run"), {})
    start = {layer.name: layer.weight.clone() for layer in trainer.search.layers}
    schedule, sizes = methods.Schedule(trainer, setting), []
    trainer.add_callback(schedule)

    class Watch(methods.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            for layer in trainer.search.layers:
                mask = schedule.masks[layer.name]
                sizes.append((layer.weight[~mask] / start[layer.name][~mask]).mean().item())
                torch.testing.assert_close(layer.weight[mask], start[layer.name][mask], atol=1e-6, rtol=1e-4)

    trainer.add_callback(Watch())
    trainer.search_ticket()
    layers = len(trainer.search.layers)
    expected = [max(1 - step / 8, 0) ** power for step in range(1, 13)]
    assert sizes[::layers] == pytest.approx(expected, abs=1e-3)


def test_the_lottery_rewinds_to_the_pretrained_weights(scale: Any, data: Path, tmp_path: Path) -> None:
    outcome, trainers = train("lottery", scale, data, tmp_path)
    assert len(trainers) == methods.ROUNDS + 1
    kept = [sum(int(mask.sum()) for mask in trainer.ticket.masks.values()) for trainer in trainers if trainer.ticket]
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == len(kept), "each round prunes a part"
    for earlier, later in pairwise(trainers):
        assert earlier.ticket and later.ticket
        for name, mask in later.ticket.masks.items():
            assert not (mask & ~earlier.ticket.masks[name]).any(), "what is pruned stays pruned"
    assert outcome["metrics"]["before_draw"]["loss"] == pytest.approx(first_loss(scale, data, tmp_path / "new"))


def first_loss(scale: Any, data: Path, folder: Path) -> float:
    trainer = methods.build_trainer(protocol.Setting("sst2", "lottery", seed=1), scale, data, str(folder), {})
    return float(trainer.evaluate()["eval_loss"])


@pytest.mark.parametrize("stopping_point", [0.01, 1.0], ids=["all epochs", "converged"])
def test_a_kept_search_ends_as_the_trainers_own(scale: Any, data: Path, tmp_path: Path, stopping_point: float) -> None:
    setting = protocol.Setting(
        "sst2", "eb_train", seed=1, epochs=6.0, search_epochs=5.0, prune_ratio=RATIO, truncation=1.0
    )

    def build(**changes: Any) -> WormTrainer:
        return methods.build_trainer(setting, scale, data, str(tmp_path), changes)

    for _ in range(2):
        kept, _ = methods.plain_search(build, tmp_path / "cache", stopping_point=stopping_point)
    own = build(stopping_point=stopping_point)
    own.search_ticket()
    assert len(kept.search.history) == (3 if stopping_point == 1 else 5)
    assert kept.search.history == own.search.history
    assert kept.progress.steps == own.progress.steps and kept.progress.epochs == own.progress.epochs
    weights = own.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in kept.model.state_dict().items())
    for trainer in (kept, own):
        trainer.draw_ticket()
        methods.retrain(trainer, setting)
    assert methods.outcome(kept)["metrics"] == methods.outcome(own)["metrics"]
    assert [e for e in kept.state.log_history if "loss" in e] == [e for e in own.state.log_history if "loss" in e]


@pytest.mark.parametrize("target", ["gradient", "update", "fade"])
def test_a_search_from_the_kept_trigger_point_ends_as_the_trainers_own(
    target: str, scale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = glue_folder(tmp_path, "sst2", judgements(32) * 4).parent  # 4 steps an epoch
    scale = protocol.replace(scale, rows={}, text_arguments=("--learning_rate", "1e-4"))
    setting = protocol.Setting("sst2", f"worm_{target}", seed=1, epochs=6.0, search_epochs=4.0, prune_ratio=RATIO)
    steps = []

    def build(**changes: Any) -> WormTrainer:
        return methods.build_trainer(setting, scale, data, str(tmp_path / "run"), changes)

    methods.kept_search(build, tmp_path / "kept.pt")
    step = WormTrainer.training_step
    monkeypatch.setattr(WormTrainer, "training_step", lambda *given: steps.append(1) or step(*given))
    kept, spent = methods.truncated_search(build, tmp_path / "kept.pt")
    assert len(steps) == kept.progress.steps["search"] - 2 * 4 and spent > 0, "two epochs were not repeated"
    own = build()
    own.search_ticket()
    assert [seen.truncating for seen in own.search.history[:2]] == [False, True]
    assert kept.search.history == own.search.history
    weights = own.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in kept.model.state_dict().items())
    for trainer in (kept, own):
        trainer.draw_ticket()
        methods.retrain(trainer, setting)
    one, other = methods.outcome(kept), methods.outcome(own)
    for name in ("metrics", "steps_by_phase", "search_epochs", "evaluations", "losses", "observations"):
        assert one[name] == other[name], name


def test_step_sampling_ends_the_search_earlier_and_leaves_the_rest_to_retraining(scale: Any, tmp_path: Path) -> None:
    data = glue_folder(tmp_path, "sst2", judgements(32) * 8).parent  # 8 steps an epoch
    scale = protocol.replace(scale, rows={}, text_arguments=("--learning_rate", "1e-5"))
    setting = protocol.Setting("sst2", "eb_train", seed=1, truncation=1.0, samples_per_epoch=4)
    outcome = methods.run(setting, scale, data, tmp_path / "cache")
    assert outcome["converged"] and outcome["search_epochs"] == 0.75
    assert outcome["steps"] == 32 and outcome["steps_by_phase"] == {"search": 6, "retrain": 26}


@pytest.mark.parametrize("samples", [1, 4])
def test_a_schedule_that_goes_on_is_planned_for_all_epochs(samples: int, scale: Any, tmp_path: Path) -> None:
    data = glue_folder(tmp_path, "sst2", judgements(32) * 8).parent  # 8 steps an epoch
    scale = protocol.replace(scale, rows={}, text_arguments=("--learning_rate", "1e-5"))
    setting = protocol.Setting("sst2", "eb_train", seed=1, truncation=1.0, search_epochs=4.0, samples_per_epoch=samples)
    setting = protocol.replace(setting, retrain_schedule="continue")
    outcome = methods.run(setting, scale, data, tmp_path / "cache")
    searched = {1: 24, 4: 6}[samples]
    assert outcome["steps_by_phase"] == {"search": searched, "retrain": 32 - searched}


def test_a_finished_run_is_not_repeated(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    script = str(BENCHMARKS / "accuracy" / "reproduce.py")
    command = [sys.executable, script, "--scale", "dry", "--table", "6", "--figure", "2"]
    command += ["--task", "sst2", "--model", str(tiny_model), "--data", str(data), "--workers", "1"]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    out = tmp_path / "out"
    for _ in range(2):
        done = subprocess.run([*command, "--out", str(out)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = (out / "reproduce-dry.jsonl").read_text().splitlines()
        assert len(lines) == 2, "WORM for the table, EB Train beside it for the figure"
    assert " of " not in done.stderr, "nothing was left to run"
    page = (out / "reproduce-dry.md").read_text()
    accuracy = next(json.loads(line)["metrics"]["drawn"]["accuracy"] for line in lines if "worm_gradient" in line)
    assert "| sst2 | 88.53 / 4 / 88.30 / 88.81 | 1 |" in page and f"{100 * accuracy:.1f}" in page
    assert (out / "figure2-dry.png").stat().st_size > 10_000


def test_runs_with_other_rows_or_another_model_are_refused(scale: Any, tmp_path: Path) -> None:
    reproduce = importlib.import_module("reproduce")
    path, setting = tmp_path / "reproduce-dry.jsonl", protocol.Setting("sst2", "dense", seed=1)
    reproduce.append(path, setting, scale, {"steps": 4})
    assert reproduce.load(path, scale)[setting]["steps"] == 4
    for other in (protocol.replace(scale, rows={"sst2": 7}), protocol.replace(scale, text_model="another/model")):
        with pytest.raises(ValueError, match="name another --out"):
            reproduce.load(path, other)
        assert methods.key(setting, other) != methods.key(setting, scale), "nor is the kept search taken for its own"


@pytest.mark.parametrize(("learning_rate", "moves"), [("1e-9", False), ("1e-2", True)])
def test_drift_is_the_distance_from_the_pretrained_masks(
    learning_rate: str, moves: bool, scale: Any, data: Path, tmp_path: Path
) -> None:
    scale = protocol.replace(scale, text_arguments=("--learning_rate", learning_rate))
    setting = protocol.Setting("sst2", "drift", seed=1, prune_ratio=RATIO)
    found = methods.run(setting, scale, data, tmp_path / "cache")["from_pretrained"]
    assert len(found) == 3
    assert (found[-1] > 0.01) == moves and (max(found) < 2 * RATIO * (1 - RATIO))


def test_units_are_drawn_by_each_score(scale: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def zero_rows(trainer: WormTrainer) -> dict[str, list[int]]:
        layers = representative_layers(trainer.model, ["neurons"])
        return {layer.name: (Magnitude().of(layer) == 0).nonzero().flatten().tolist() for layer in layers}

    monkeypatch.setattr(methods, "evaluate", zero_rows)
    setting = protocol.Setting("sst2", "scores", seed=1, layers=("neurons",), prune_ratio=0.5)
    found = methods.run(setting, scale, data, tmp_path / "cache")["drawn_by"]
    assert list(found) == ["not pruned", *methods.SCORES, "random 1", "random 2", "random 3"]
    whole, *drawn = found.values()
    assert not any(whole.values())
    sizes = {tuple(map(len, rows.values())) for rows in drawn}
    assert len(sizes) == 1 and min(sizes.pop()) > 1
    assert all(one != other for one, other in combinations(drawn, 2)), "each has its own"
    smallest, largest = (found[name] for name in ("L1 norm", "L1 norm, the largest go"))
    assert all(not set(rows) & set(largest[name]) for name, rows in smallest.items())


def test_neurons_can_go_by_their_l2_norm(scale: Any, data: Path, tmp_path: Path) -> None:
    setting = protocol.Setting("sst2", "l2_norm", seed=1, layers=("neurons",), prune_ratio=RATIO, truncation=1.0)
    trainers: list[WormTrainer] = []

    def build(**changes: Any) -> WormTrainer:
        trainers.append(methods.build_trainer(setting, scale, data, str(tmp_path), changes))
        return trainers[-1]

    assert methods.BY_NAME["l2_norm"](setting, build, tmp_path / "cache")["steps"] == 4 * STEPS_OF_AN_EPOCH
    kept = torch.load(tmp_path / "cache")["epochs"][-1][1]
    weights = trainers[-1].model.state_dict()
    model = methods.build_trainer(setting, scale, data, str(tmp_path), {}).model
    model.load_state_dict(kept)
    for layer in representative_layers(model, ["neurons"]):
        norms = methods.SCORES["L2 norm"](layer)
        zero = (weights[layer.name] == 0).all(1)
        assert int(zero.sum()) == round(RATIO * len(norms)) and norms[zero].max() <= norms[~zero].min()


def test_scores_of_a_neuron_are_its_norms() -> None:
    model = torch.nn.ModuleDict({"fc1": torch.nn.Linear(2, 3), "fc2": torch.nn.Linear(3, 2)})
    (layer,) = representative_layers(model, ["neurons"])
    inward, bias, out = (weight.detach().double() for weight in (model.fc1.weight, model.fc1.bias, model.fc2.weight))
    whole = torch.cat([inward, bias[:, None], out.T], dim=1)
    expected = [whole.abs().sum(1), whole.norm(dim=1), inward.norm(dim=1) * out.norm(dim=0)]
    expected.append(expected[0].max() - expected[0])
    for score, values in zip(methods.SCORES.values(), expected, strict=True):
        torch.testing.assert_close(score(layer).double(), values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("differences", "sign", "verdict"),
    [
        ([2.0, 2.5, 1.5], +1, "holds"),
        ([2.0, 2.5, 1.5], -1, "fails"),
        ([0.1, -0.1, 0.0], +1, "no difference"),
        ([0.0, 0.0, 0.0], +1, "no difference"),
        ([0.1, 0.1, 0.1], +1, "no difference"),  # a row each time: no certainty
        ([3.0, -2.0, 1.0], +1, "undecided"),
    ],
)
def test_a_claim_holds_where_the_interval_excludes_zero(differences: list[float], sign: int, verdict: str) -> None:
    assert importlib.import_module("pages").verdict(differences, sign, matters=1.0) == verdict


def test_half_an_interval_is_students() -> None:
    summary = importlib.import_module("summary")
    assert summary.half_interval([1.0, 2.0, 3.0]) == pytest.approx(4.302653 * 1 / 3**0.5, rel=1e-6)


def made_up(setting: Any) -> dict[str, Any]:
    """A record as a run would leave it."""
    final = 0.8 + 0.01 * setting.seed - 0.1 * setting.prune_ratio + 0.02 * (setting.method == "worm_fade")
    stages = {"dense": {"dense": final}, "gradual": {"drawn": 0.7, "retrained": final}, "drift": {}, "scores": {}}
    stages = stages.get(setting.method, {"before_draw": 0.8, "drawn": 0.5, "retrained": final})
    searched = {} if setting.method in ("dense", "gradual", "before", "drift", "scores") else {"search": 6}
    seen = {"index": 0, "distances": [0.1], "max_distance": 0.1, "mean_distance": 0.1}
    return {
        "metrics": {stage: {"accuracy": value, "loss": 0.5} for stage, value in stages.items()},
        "search_epochs": 3.0,
        "converged": True,
        "observations": [seen],
        "steps": 8,
        "steps_by_phase": {**searched, "retrain": 8 - sum(searched.values())},
        "evaluations": [[2, 0.7], [6, 0.75], [8, final]],
        "losses": [[2, 0.7], [8, 0.5]],
        "from_pretrained": [0.001, 0.002],
        "drawn_by": {name: {"accuracy": 0.6, "loss": 0.7} for name in ("not pruned", "L1 norm", "random 1")},
        "cpu_seconds": 9.0,
        "machine": {"cpu": "a CPU", "threads": 1, "torch": "2"},
    }


def test_the_pages_of_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reproduce = importlib.import_module("reproduce")
    scale = protocol.SCALES["dry"]
    settings = {setting for part in protocol.PARTS for setting in protocol.settings_of(part, scale, 2)}
    for setting in settings:
        reproduce.append(tmp_path / "reproduce-dry.jsonl", setting, scale, made_up(setting))
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--scale", "dry", "--pages", "--out", str(tmp_path)])
    reproduce.main()
    page, fading, units = ((tmp_path / f"{name}-dry.md").read_text() for name in ("reproduce", "fading", "units"))
    assert "Not all is run yet" not in page + fading + units
    tables = [f"## Table {number}" for number in range(1, 7)]
    sections = ["## The paper's claims", "## How far the masks move", "## What to take", "## Sampling within an epoch"]
    sections += ["## In short", "## One schedule or two"]
    assert all(section in page for section in [*tables, *sections])
    assert "| EB Train | 2 | 80.0 ± 0.0 | 50.0 ± 0.0 | 30.0 ± 0.0 | 76.5 ± 0.7 | 3.00 ± 0.00 | 8.0 ± 0.0 |" in page
    assert "| WORM has a smaller drop at the draw | 0 | 0 | 18 | 0 |" in page, "all runs are alike"
    others = "EB Train, before fine-tuning, train–prune–retrain, gradual, random mask, WORM gradient, WORM update"
    assert f"| rte: query, key | 0.9 | 2 | 30.0 ± 0.0 | 30.0 ± 0.0 | 74.5 ± 0.7 | {others} | – | dense |" in fading
    assert "the mean of the 6 tables of queries and keys with p ≥ 0.8, seed by seed: dense" in fading
    assert "## How to fade" in fading and "### rte: query, key, p = 0.9" in fading
    assert "| WORM, fading | start | 0.25 | 4 | 2 | 80.0 ± 0.0 | 50.0 ± 0.0 | 30.0 ± 0.0 | 78.5 ± 0.7 |" in fading
    assert fading.count("| 3.00 ± 0.00 | +2.0 (+1.1 to +2.9) |") == 4, "four ways to fade"
    assert "### mrpc: query, key, value, p = 0.8" in fading and "### vgg11_bn: batchnorm, p = 0.5" in fading
    assert "## mrpc: neurons and heads, p = 0.5" in units
    assert "| WORM, fading | 2 | 80.0 ± 0.0 | 50.0 ± 0.0 | 30.0 ± 0.0 | 78.5 ± 0.7 | 78.5 ± 0.7 | 8.0 ± 0.0 |" in units
    even = "+0.0 (+0.0 to +0.0)"
    assert f"| mrpc | neurons | 0.5 | {even} | {even} | {even} | +2.0 (+1.1 to +2.9) | {even} | {even} |" in units
    assert f"| rte | neurons | 0.5 | {even} | {even} | {even} | +2.0 (+1.1 to +2.9) | {even} | – |" in units
    assert f"| sst2 | heads | 0.33 | {even} | – | – | +2.0 (+1.1 to +2.9) | {even} | – |" in units
    assert "| rte | heads | 0.33 | 2 | 60.0 ± 0.0 | 60.0 ± 0.0 | 60.0 ± 0.0 |" in units
    assert "as high or higher by accuracy in 30 of 30 pairs of runs, and as low or lower by loss in 30." in units
    for figure in ("figure1", "figure2", "fading"):
        assert (tmp_path / f"{figure}-dry.png").stat().st_size > 5_000


def test_the_pages_and_the_readme_are_those_of_the_committed_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reproduce = importlib.import_module("reproduce")
    shutil.copy(BENCHMARKS / "results" / "reproduce-small.jsonl", tmp_path)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--pages", "--out", str(tmp_path)])
    reproduce.main()
    pages = {page.name: page.read_text() for page in tmp_path.glob("*.md")}
    assert "reproduce-small.md" in pages
    for name, text in pages.items():
        assert text == (BENCHMARKS / "results" / name).read_text(), f"{name}: make it anew with `reproduce.py --pages`"
    readme = (BENCHMARKS.parent / "README.md").read_text()
    rows = [line for line in readme.splitlines() if line.startswith("|") and " ± " in line]
    assert len(rows) > 5
    known = {line for page in pages.values() for line in page.splitlines()}
    assert not [row for row in rows if row not in known]
