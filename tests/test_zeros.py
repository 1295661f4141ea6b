"""Once a ticket is drawn, no pruned weight differs from 0: after any step, before any forward pass, in any save."""

import copy
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training import by_weights, checkpoints, examples, pruned_are_zero, report, same_weights, weights, worm_trainer
from transformers import BertForSequenceClassification, TrainerCallback
from transformers.training_args import OptimizerNames

from hf_worm import Ticket, WormConfig, WormTrainer
from hf_worm.core.truncation import unwrapped

SHORT = {"stopping_point": 1.0, "sample_strategy": "steps", "sample_steps": 2, "truncate_from": "start"}
DRAWN_AT = 6  # optimizer steps: the third observation
# A neuron or head all of which is 0 has no gradient, and stays 0 by itself unless something is written to it.
of_any_size = pytest.mark.parametrize("layers", [("query", "key"), ("neurons", "heads")], ids="+".join)


def pruned(masks: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> float:
    """The largest magnitude among what is pruned."""
    return max(float(found[name].detach()[~mask].abs().max()) for name, mask in masks.items())


def masks_of(trainer: WormTrainer) -> dict[str, torch.Tensor]:
    """Of the ticket, one for each parameter that it prunes a part of."""
    assert trainer.ticket is not None
    return by_weights(trainer.ticket, trainer.model).masks


class Watch(TrainerCallback):
    """Looks at the pruned weights of a drawn model after each step and before each forward pass."""

    trainer: WormTrainer

    def __init__(self) -> None:
        self.after_steps: list[float] = []
        self.before_passes: list[float] = []
        self.before_evaluations: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        if self.trainer.ticket is not None:
            self.after_steps.append(self.look(model))

    def before_forward(self, model: nn.Module, inputs: Any) -> None:
        if self.trainer.ticket is not None:
            into = self.before_passes if model.training else self.before_evaluations
            into.append(self.look(model))

    def look(self, model: nn.Module) -> float:
        return pruned(masks_of(self.trainer), dict(model.named_parameters()))


def watched(
    model: nn.Module,
    folder: Path,
    steps: int = 16,
    callbacks: tuple[TrainerCallback, ...] = (),
    layers: Sequence[str] = ("query", "key"),
    **changes: Any,
) -> tuple[WormTrainer, Watch]:
    """A trainer that draws early and retrains for `steps`, and what looks at its weights before all other callbacks."""
    watch = Watch()
    accumulated = changes.get("gradient_accumulation_steps", 1)
    settings = {
        "callbacks": [watch, *callbacks],
        "eval_dataset": examples(8),
        "weight_decay": 0.1,
        "save_strategy": "steps",
        "save_steps": 5,
        "eval_strategy": "steps",
        "eval_steps": 5,
        **changes,
    }
    config = WormConfig(layers=list(layers), retrain_epochs=steps * accumulated / 8, **SHORT)
    trainer = worm_trainer(model, folder, config, **settings)
    watch.trainer = trainer
    model.register_forward_pre_hook(watch.before_forward)
    return trainer, watch


def saves_after_the_draw(folder: Path) -> list[Path]:
    return [path for path in checkpoints(folder) if int(path.name.partition("-")[2]) > DRAWN_AT]


def check_saves(trainer: WormTrainer, folder: Path) -> None:
    """Each save on disk since the draw, those of other classes' code included, holds zeros, and none before it does."""
    assert trainer.ticket is not None
    ticket = by_weights(trainer.ticket, trainer.model)
    trainer.save_model(str(folder / "last"))
    trainer.model.save_pretrained(folder / "by-the-model")  # past the trainer
    after = saves_after_the_draw(folder)
    assert len(after) >= 3
    assert all(pruned_are_zero(path, ticket) for path in [*after, folder / "last", folder / "by-the-model"])
    assert not pruned_are_zero(checkpoints(folder)[0], ticket)


# Optimizers of the Trainer that come with torch and transformers.

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"optim": "adamw_torch"},
    "adamw-fused": {"optim": "adamw_torch_fused"},
    "sgd-momentum": {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.05},
    "sgd-nesterov": {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true", "learning_rate": 0.05},
    "adafactor": {"optim": "adafactor"},
    "rmsprop": {"optim": "rmsprop", "optim_args": "momentum=0.9,centered=true"},
    "adagrad": {"optim": "adagrad"},
    "accumulated": {"optim": "adamw_torch", "gradient_accumulation_steps": 2},
    "accumulated-unevenly": {"optim": "adafactor", "gradient_accumulation_steps": 3},
}


@of_any_size
@pytest.mark.parametrize("changes", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_zeros_under_the_optimizers_of_the_trainer(
    bert: BertForSequenceClassification, tmp_path: Path, changes: dict[str, Any], layers: tuple[str, ...]
) -> None:
    trainer, watch = watched(bert, tmp_path, steps=24, layers=layers, **changes)
    trainer.search_ticket()
    ticket = trainer.draw_ticket()
    drawn = weights(bert)
    trainer.retrain()
    assert report(tmp_path)["search"]["steps"] == DRAWN_AT
    assert len(watch.after_steps) >= 24 and not any(watch.after_steps)
    assert len(watch.before_passes) >= 24 and not any(watch.before_passes)
    assert len(watch.before_evaluations) >= 5 and not any(watch.before_evaluations)
    for name, mask in by_weights(ticket, bert).masks.items():
        assert (bert.get_parameter(name)[mask] != drawn[name][mask]).all(), "what is kept trains on"
    check_saves(trainer, tmp_path)


def test_a_group_of_their_own_for_the_pruned_layers(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    """Hooks on the optimizer's step know of no groups: rates, decay and momentum of the layers' own change nothing."""
    own = [p for name, p in bert.named_parameters() if ".query." in name]
    others = [p for name, p in bert.named_parameters() if ".query." not in name]
    groups = [{"params": own, "lr": 0.5, "weight_decay": 0.5, "momentum": 0.99}, {"params": others, "lr": 1e-2}]
    optimizer = torch.optim.SGD(groups, lr=1e-3, momentum=0.5)
    trainer, watch = watched(bert, tmp_path, optimizers=(optimizer, None))
    trainer.train()
    assert len(watch.after_steps) == 16
    assert not any(watch.after_steps + watch.before_passes + watch.before_evaluations)
    check_saves(trainer, tmp_path)


# Callbacks that write to the weights.


class Noise(TrainerCallback):
    """Disturbs all weights at the end of each step, before whatever is evaluated and saved there."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=1e-3)


class MovingAverage(TrainerCallback):
    """Averages the weights since the run's first step, and writes the average into the model at one of the events."""

    def __init__(self, writes_on: str) -> None:
        self.writes_on = writes_on
        self.average: dict[str, torch.Tensor] = {}
        self.wrote: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        for name, parameter in model.named_parameters():
            self.average.setdefault(name, parameter.detach().clone()).lerp_(parameter.detach(), 0.1)
        if control.should_save or state.global_step % args.save_steps == 0:
            self._write("save", state, model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self._write("end", state, model)

    def _write(self, event: str, state: Any, model: nn.Module) -> None:
        if event == self.writes_on:
            self.wrote.append(state.global_step)
            for name, parameter in model.named_parameters():
                parameter.data.copy_(self.average[name])


@of_any_size
@pytest.mark.parametrize("event", ["save", "end"])
def test_an_average_that_remembers_the_time_before_the_draw(
    bert: BertForSequenceClassification, tmp_path: Path, event: str, layers: tuple[str, ...]
) -> None:
    average = MovingAverage(event)
    trainer, watch = watched(bert, tmp_path, callbacks=(average,), layers=layers)
    trainer.train()
    assert len(average.wrote) >= (1 if event == "end" else 2)
    assert pruned(masks_of(trainer), average.average) > 0, "the average knew nothing from before the draw"
    assert len(watch.before_evaluations) >= 5 and not any(watch.before_evaluations), "what was measured is not saved"
    check_saves(trainer, tmp_path)
    for name, mask in masks_of(trainer).items():
        if event == "end":
            assert torch.equal(bert.get_parameter(name)[mask], average.average[name][mask]), "the rest is the average"


UNEVALUATED: dict[str, Any] = {"eval_strategy": "no", "eval_dataset": None}


@of_any_size
@pytest.mark.parametrize("changes", [{}, UNEVALUATED], ids=["evaluated", "never-evaluated"])
def test_noise_reaches_no_save_and_no_evaluation(
    bert: BertForSequenceClassification, tmp_path: Path, changes: dict[str, Any], layers: tuple[str, ...]
) -> None:
    trainer, watch = watched(bert, tmp_path, callbacks=(Noise(),), layers=layers, **changes)
    trainer.train()
    assert any(watch.before_passes), "the noise was there, until the next step took it away"
    assert not any(watch.before_evaluations)
    check_saves(trainer, tmp_path)


def test_what_a_callback_wrote_at_the_very_end_is_pruned_in_memory_too(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """Without any evaluation or save by the trainer: the user may go on with the model itself."""
    average = MovingAverage("end")
    trainer, _ = watched(bert, tmp_path, callbacks=(average,), **UNEVALUATED)
    trainer.train()
    assert pruned(trainer.ticket.masks, average.average) > 0
    assert pruned(trainer.ticket.masks, weights(bert)) == 0


def test_predictions_are_those_of_the_saved_model(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer, watch = watched(bert, tmp_path)
    trainer.train()
    Noise().on_step_end(None, None, None, model=bert)
    assert pruned(trainer.ticket.masks, weights(bert)) > 0
    watch.before_evaluations.clear()
    found = trainer.predict(examples(8)).predictions
    assert watch.before_evaluations == [0.0]
    trainer.save_model()
    saved = BertForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = saved(torch.stack([row["input_ids"] for row in examples(8)])).logits
    torch.testing.assert_close(torch.tensor(found), expected)


@pytest.mark.parametrize("stirred", [False, True], ids=["plain", "noise"])
def test_the_best_model_is_measured_as_it_is_saved(
    bert: BertForSequenceClassification, tmp_path: Path, stirred: bool
) -> None:
    trainer, watch = watched(
        bert,
        tmp_path,
        callbacks=(Noise(),) if stirred else (),
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    trainer.train()
    assert not any(watch.before_evaluations)
    best = Path(trainer.state.best_model_checkpoint)
    assert best in saves_after_the_draw(tmp_path)
    saved = load_file(best / "model.safetensors")
    assert all(torch.equal(saved[name], weight) for name, weight in bert.state_dict().items() if name in saved)
    measured = min(entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(measured, rel=1e-6)
    check_saves(trainer, tmp_path)


# Optimizers that keep weights of their own.


class Lookahead(torch.optim.SGD):
    """Every third step it steps back to a slow copy of the weights, made when the optimizer was, and writes it."""

    def __init__(self, parameters: Any, **options: Any) -> None:
        super().__init__(parameters, **options)
        self.slow = {p: p.detach().clone() for group in self.param_groups for p in group["params"]}
        self.count = 0
        self.wrote_back = 0.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        super().step(closure)
        self.count += 1
        if self.count % 3 == 0:
            for parameter, slow in self.slow.items():
                self.wrote_back += float(slow[parameter == 0].abs().sum())
                parameter.copy_(slow.lerp_(parameter, 0.5))


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (arXiv:2405.15682): steps on z, trains on y between z and their mean x, and is for x.

    As its authors' does, it has the model hold y after `train()` and x after `eval()`.
    """

    def __init__(self, parameters: Any, lr: float = 0.1, beta: float = 0.9) -> None:
        super().__init__(parameters, {"lr": lr})
        self.beta = beta
        self.count = 0
        self.training = False
        self.swaps = 0

    def _swap(self, training: bool, weight: float) -> None:
        if self.training != training:
            self.training = training
            self.swaps += 1
            for parameter, state in self.state.items():
                parameter.data.lerp_(state["z"], weight)

    def train(self) -> None:
        self._swap(True, 1 - self.beta)

    def eval(self) -> None:
        self._swap(False, 1 - 1 / self.beta)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert self.training
        self.count += 1
        for group in self.param_groups:
            for y in group["params"]:
                if y.grad is None:
                    continue
                z = self.state[y].setdefault("z", y.clone())
                x = y.lerp(z, 1 - 1 / self.beta)
                z.sub_(y.grad, alpha=group["lr"])
                y.copy_(x.lerp_(z, 1 / self.count).lerp_(z, 1 - self.beta))


@of_any_size
def test_a_slow_copy_from_before_the_draw_brings_nothing_back(
    bert: BertForSequenceClassification, tmp_path: Path, layers: tuple[str, ...]
) -> None:
    optimizer = Lookahead(bert.parameters(), lr=0.05, momentum=0.9)
    trainer, watch = watched(bert, tmp_path, optimizers=(optimizer, None), layers=layers)
    trainer.train()
    assert optimizer.wrote_back > 0, "the slow copy knew nothing from before the draw"
    assert len(watch.after_steps) == 16
    assert not any(watch.after_steps + watch.before_passes + watch.before_evaluations)
    check_saves(trainer, tmp_path)


@of_any_size
@pytest.mark.parametrize("changes", [{}, UNEVALUATED], ids=["evaluated", "never-evaluated"])
def test_an_optimizer_that_swaps_weights_for_evaluation(
    bert: BertForSequenceClassification, tmp_path: Path, changes: dict[str, Any], layers: tuple[str, ...]
) -> None:
    """What it trains on, what it evaluates and what it leaves at the end all hold the zeros."""
    swapping: list[ScheduleFree] = []

    class Swapping(ScheduleFree):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            swapping.append(self)

    trainer, watch = watched(bert, tmp_path, layers=layers, **changes)
    trainer.optimizer_cls_and_kwargs = (Swapping, {"lr": 0.1})
    trainer.train()
    assert len(swapping) == 2, "one for each phase"
    assert not any(optimizer.training for optimizer in swapping), "a phase ends with the weights that it is for"
    assert min(optimizer.swaps for optimizer in swapping) >= (2 if changes else 3)
    assert len(watch.after_steps) == 16
    assert not any(watch.after_steps + watch.before_passes + watch.before_evaluations)
    trainer.evaluate(examples(8))
    assert not any(watch.before_evaluations)
    check_saves(trainer, tmp_path)


def test_the_best_model_stays_though_the_optimizer_swaps(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    """The last step is not evaluated: the optimizer still trains when the best model is loaded."""

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 12

    trainer, watch = watched(
        bert, tmp_path, callbacks=(Stop(),), load_best_model_at_end=True, metric_for_best_model="loss"
    )
    trainer.optimizer_cls_and_kwargs = (ScheduleFree, {"lr": 0.1})
    trainer.train()
    saved = load_file(Path(trainer.state.best_model_checkpoint) / "model.safetensors")
    assert all(torch.equal(saved[name], weight) for name, weight in bert.state_dict().items() if name in saved)
    assert not any(watch.after_steps + watch.before_passes + watch.before_evaluations)


@of_any_size
def test_nothing_of_the_pruned_weights_enters_shared_statistics(
    bert: BertForSequenceClassification, tmp_path: Path, layers: tuple[str, ...]
) -> None:
    """Adafactor scales a weight by means over its row and column: those of pruned weights' gradients are left out."""
    trainer, _ = watched(bert, tmp_path, optim="adafactor", max_grad_norm=0, layers=layers)
    seen: list[float] = []

    class Looks(TrainerCallback):
        """Looks at the gradients that an optimizer step of the retraining gets to see."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.known: list[Any] = []

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any, **kwargs: Any) -> None:
            if not trainer.searching and unwrapped(optimizer) not in self.known:
                self.known.append(unwrapped(optimizer))
                unwrapped(optimizer).register_step_pre_hook(self.look)

        def look(self, *_: Any) -> None:
            masks = masks_of(trainer)
            gradients = {name: bert.get_parameter(name).grad for name in masks}
            seen.append(pruned(masks, {name: g for name, g in gradients.items() if g is not None}))

    trainer.add_callback(Looks())
    trainer.train()
    assert len(seen) == 16 and not any(seen)


# Optimizers that leave nothing to hold on to.


BACKWARD = sorted(
    name.value for name in OptimizerNames if name.value.endswith("_layerwise") or name.value in ("lomo", "adalomo")
)
LIONS = sorted(name.value for name in OptimizerNames if "lion" in name.value)


@pytest.mark.parametrize("name", BACKWARD)
def test_optimizers_that_step_in_the_backward_pass_are_refused(
    bert: BertForSequenceClassification, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=rf"does not support `optim='{name}'`: .* inside the backward pass"):
        worm_trainer(bert, tmp_path, optim=name, optim_target_modules="all-linear")


def test_not_too_many_are_refused(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    for name in sorted({name.value for name in OptimizerNames} - {*BACKWARD, *LIONS}):
        trainer = worm_trainer(bert, tmp_path, optim=name, optim_target_modules="all-linear")
        assert trainer.search is not None, name


@pytest.mark.parametrize("name", LIONS)
def test_no_gradients_are_truncated_of_which_only_the_sign_counts(
    bert: BertForSequenceClassification, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=rf"`optim='{name}'` steps by the sign .*truncation_target='update'"):
        worm_trainer(bert, tmp_path, optim=name)
    worm_trainer(bert, tmp_path, WormConfig(truncation_target="update"), optim=name)
    worm_trainer(bert, tmp_path, WormConfig.eb_train(), optim=name)


class Lion(torch.optim.Optimizer):
    """What `lion-pytorch` and others have under this name, without its momentum."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(group["lr"] * parameter.grad.sign())


class DecoupledLionW(Lion):
    pass


class AdaLomo(torch.optim.SGD):
    pass


def given_as(way: str, kind: type[torch.optim.Optimizer], bert: nn.Module, folder: Path, **config: Any) -> WormTrainer:
    """A trainer whose optimizer is of that class, by one of the ways other than `args.optim`."""
    own = kind(bert.parameters(), lr=1e-3)
    optimizers = (own, None) if way == "instance" else (None, None)
    trainer = worm_trainer(bert, folder, WormConfig(stopping_point=0.5, **config), optimizers=optimizers)
    if way == "class":
        trainer.optimizer_cls_and_kwargs = (kind, {"lr": 1e-3})
    if way == "method":
        trainer.create_optimizer = lambda model=None: setattr(trainer, "optimizer", own)  # type: ignore[method-assign]
    return trainer


@pytest.mark.parametrize("way", ["instance", "class", "method"])
@pytest.mark.parametrize("kind", [Lion, DecoupledLionW, torch.optim.Rprop, AdaLomo])
def test_an_optimizer_of_the_users_own_is_refused_as_well(
    bert: BertForSequenceClassification, tmp_path: Path, kind: type[torch.optim.Optimizer], way: str
) -> None:
    before = copy.deepcopy(bert.state_dict())
    why = "does not support `AdaLomo`: .* inside the backward pass" if kind is AdaLomo else "`.*` steps by the sign"
    with pytest.raises(ValueError, match=why):
        given_as(way, kind, bert, tmp_path).train()
    assert same_weights(before, bert.state_dict())


@pytest.mark.parametrize("way", ["instance", "class", "method"])
def test_its_step_can_be_truncated(bert: BertForSequenceClassification, tmp_path: Path, way: str) -> None:
    trainer = given_as(way, Lion, bert, tmp_path, truncation_target="update")
    trainer.train()
    assert trainer.ticket is not None and trainer.ticket.sparsity == 0.5


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        (Lion, 0.9),
        (torch.optim.Rprop, 0.9),
        pytest.param(
            getattr(torch.optim, "Muon", None),
            0.1,
            marks=pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="no Muon before torch 2.9"),
        ),
    ],
)
def test_a_truncated_gradient_does_not_make_their_steps_small(kind: type[torch.optim.Optimizer], least: float) -> None:
    """That is why: where the gradients are multiplied by 0.003, so should the step be, about."""
    truncated = torch.rand(32, 32) < 0.5
    shares = []
    for optimizer_class in (kind, torch.optim.SGD):
        weight = nn.Parameter(torch.zeros(32, 32))
        optimizer = optimizer_class([weight], lr=1e-3)
        for _ in range(10):
            weight.grad = torch.randn(32, 32) * torch.where(truncated, 0.003, 1.0)
            optimizer.step()
        moved = weight.detach().abs()
        shares.append(float(moved[truncated].mean() / moved[~truncated].mean()))
    assert shares[0] > least and shares[1] < 0.01


def test_without_a_config_they_are_the_parents_business(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, optim="sgd")
    trainer.args.optim = OptimizerNames.LOMO
    assert WormTrainer(model=bert, args=trainer.args, train_dataset=examples()).search is None


# By hand, without the Trainer.


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1, amsgrad=True),
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda parameters: torch.optim.NAdam(parameters, lr=1e-2, momentum_decay=0.01),
        lambda parameters: torch.optim.Rprop(parameters),
        lambda parameters: torch.optim.Adamax(parameters),
        lambda parameters: torch.optim.ASGD(parameters),
        lambda parameters: Lookahead(parameters, lr=0.05, momentum=0.9),
    ],
    ids=["amsgrad", "nesterov", "nadam", "rprop", "adamax", "asgd", "lookahead"],
)
def test_a_ticket_held_by_hand(model: nn.Sequential, make: Callable[[Any], torch.optim.Optimizer]) -> None:
    """With the search's own optimizer kept: its momentum, states and copies are from before the draw."""
    optimizer = make(model.parameters())
    masks = {f"{i}.{role}.weight": torch.rand(8, 8) < 0.5 for i in range(2) for role in ("query", "key")}
    ticket = Ticket(masks, WormConfig())

    def step() -> None:
        inputs, labels = torch.randn(16, 4, 8), torch.randint(0, 2, (16,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    for _ in range(5):
        step()
    handle = ticket.hold(model, optimizer)
    for _ in range(30):
        step()
        assert pruned(masks, dict(model.named_parameters())) == 0
    handle.remove()
    for _ in range(3):  # and it was the hold that did it
        step()
    assert pruned(masks, dict(model.named_parameters())) > 0


def test_all_saves_of_a_run_that_is_looked_at_from_outside(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    """No save of the run mixes the phases: dense up to the draw, zeros ever after."""
    trainer, _ = watched(bert, tmp_path, save_steps=1)
    trainer.train()
    shares = []
    for path in checkpoints(tmp_path):
        saved = load_file(path / "model.safetensors")
        shares.append(sum(int((saved[name] == 0).sum()) for name in trainer.ticket.masks))
    assert len(shares) == DRAWN_AT + 16
    assert [count for count, _ in itertools.groupby(shares)] == [0, 4 * 128]
    assert shares.count(0) == DRAWN_AT
