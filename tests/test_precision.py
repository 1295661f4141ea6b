"""What holds under lower precision, compilers, checkpointed activations, fused optimizers and accumulation."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training import (
    QUERY_AND_KEY,
    Gradients,
    arguments,
    checkpoints,
    examples,
    pruned_are_zero,
    same_weights,
    weights,
    without_dropout,
    worm_trainer,
)
from transformers import BertForSequenceClassification, Trainer, TrainerCallback

from hf_worm import Ticket, TicketSearch, WormConfig, WormTrainer

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))
DEVICES = ["cpu", CUDA]
SHORT = {"stopping_point": 1.0, "sample_strategy": "steps", "sample_steps": 2, "truncate_from": "start"}
NEVER = {"stopping_point": 0.0, "truncate_from": "start"}
R = 0.25  # a power of two: where gradients are multiplied by it loses nothing in any precision


def factors(search: TicketSearch, r: float) -> dict[str, torch.Tensor]:
    return {name: torch.where(mask, 1.0, r) for name, mask in search.masks.items()}


def check_truncated_once(
    bert: nn.Module,
    folder: Path,
    device: str = "cpu",
    prepare: Callable[[Trainer], None] = lambda trainer: None,
    epochs: int = 1,
    **changes: Any,
) -> WormTrainer:
    """A search's gradients are those of the plain Trainer, times r where the mask prunes: in each step, bit for bit.

    With a learning rate of 0 the weights stay, so all steps of both can be compared. On a GPU, sums differ in order.
    """
    settings = {"learning_rate": 0.0, "max_grad_norm": 0, "num_train_epochs": epochs, "use_cpu": device == "cpu"}
    settings |= copy.deepcopy(changes)
    plain, truncated = Gradients(), Gradients()
    parent = Trainer(
        model=copy.deepcopy(bert), args=arguments(folder, **settings), train_dataset=examples(), callbacks=[plain]
    )
    prepare(parent)
    parent.train()  # before the other one is made: making a trainer sets the seed
    worm = worm_trainer(bert, folder, WormConfig(**NEVER, truncation=R), callbacks=[truncated], **settings | changes)
    prepare(worm)
    worm.search_ticket()
    assert len(plain.steps) == len(truncated.steps) > 0
    scales = factors(worm.search, R)
    for expected, found in zip(plain.steps, truncated.steps, strict=True):
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            if name in scales:
                assert gradient.count_nonzero() > gradient.numel() / 2, "there was nothing to truncate"
                gradient = gradient * scales[name].to(gradient)
            tolerance = {"rtol": 0, "atol": 0} if device == "cpu" else {"rtol": 1e-2, "atol": 1e-6}
            torch.testing.assert_close(found[name], gradient, equal_nan=True, **tolerance, msg=name)
    return worm


def check_run(bert: nn.Module, folder: Path, device: str = "cpu", **changes: Any) -> WormTrainer:
    """All three phases; zeros at each save; the ticket is what was drawn, by plain names."""
    config = WormConfig(**SHORT, retrain_epochs=1, truncation_target=changes.pop("target", "gradient"))
    settings = {"save_strategy": "steps", "save_steps": 4, "use_cpu": device == "cpu", "weight_decay": 0.1, **changes}
    trainer = worm_trainer(bert, folder, config, **settings)
    trainer.train()
    trainer.save_model()
    assert list(trainer.ticket.masks) == QUERY_AND_KEY
    after = [path for path in checkpoints(folder) if int(path.name.partition("-")[2]) > 6]
    assert len(after) >= 2
    assert all(pruned_are_zero(path, trainer.ticket) for path in [*after, folder])
    loaded = Ticket.from_pretrained(folder)
    assert all(torch.equal(loaded.masks[name], mask) for name, mask in trainer.ticket.masks.items())
    return trainer


# bf16 and fp16.


@pytest.mark.parametrize("device", DEVICES)
def test_bf16_autocast_truncates_fp32_gradients_once(
    bert: BertForSequenceClassification, tmp_path: Path, device: str
) -> None:
    worm = check_truncated_once(bert, tmp_path, device, bf16=True)
    assert worm.accelerator.mixed_precision == "bf16"
    assert all(layer.weight.dtype == torch.float32 for layer in worm.search.layers)
    assert all(
        layer.parameter.grad is None or layer.parameter.grad.dtype == torch.float32 for layer in worm.search.layers
    )


@pytest.mark.parametrize("device", DEVICES)
def test_bf16_autocast_takes_the_masks_of_the_fp32_weights(
    bert: BertForSequenceClassification, tmp_path: Path, device: str
) -> None:
    """bf16 sees too few digits to rank these weights: its masks would be others."""
    close = {}
    for name in QUERY_AND_KEY:
        weight = bert.get_parameter(name)
        weight.data = 1 + 1e-4 * torch.rand(weight.shape)
        close[name] = weight.detach().clone()
    trainer = check_run(bert, tmp_path, device, bf16=True, learning_rate=0.0, weight_decay=0.0)
    for name, weight in close.items():
        expected = torch.ones(256, dtype=torch.bool)
        expected[weight.flatten().argsort(stable=True)[:128]] = False
        assert torch.equal(trainer.ticket.masks[name].flatten(), expected)
        assert weight.bfloat16().unique().numel() == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("target", ["gradient", "update"])
def test_weights_in_bf16(bert: BertForSequenceClassification, tmp_path: Path, device: str, target: str) -> None:
    bert = bert.to(torch.bfloat16)
    magnitudes = torch.stack([bert.get_parameter(name).detach().abs() for name in QUERY_AND_KEY])
    assert magnitudes.unique().numel() < 0.6 * magnitudes.numel(), "too few ties to show anything"
    trainer = check_run(bert, tmp_path, device, target=target, learning_rate=1e-2)
    assert all(int(mask.sum()) == 128 for mask in trainer.ticket.masks.values()), "exactly half, ties or not"
    assert all(int((bert.get_parameter(name) == 0).sum()) == 128 for name in QUERY_AND_KEY)
    saved = load_file(tmp_path / "model.safetensors")
    assert {saved[name].dtype for name in QUERY_AND_KEY} == {torch.bfloat16}


@pytest.mark.parametrize("device", DEVICES)
def test_bf16_gradients_are_truncated_once(bert: BertForSequenceClassification, tmp_path: Path, device: str) -> None:
    check_truncated_once(bert.to(torch.bfloat16), tmp_path, device)


def test_fp16_on_a_cpu_is_fp32(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    """Accelerate neither casts nor scales there, and says nothing: so there is nothing for us to get wrong."""
    twin = copy.deepcopy(bert)
    half = check_run(bert, tmp_path / "half", fp16=True)
    check_run(twin, tmp_path / "full")
    assert half.accelerator.scaler is None
    assert same_weights(weights(bert), weights(twin))


def with_scaler(initial: float) -> Callable[[Trainer], None]:
    """What Accelerate sets up for fp16 on a GPU, on the CPU as well: a `GradScaler`, and autocast to fp16."""

    def prepare(trainer: Trainer) -> None:
        device = trainer.args.device.type
        trainer.accelerator.scaler = torch.amp.GradScaler(device, init_scale=initial, growth_interval=1000)
        trainer.accelerator.native_amp = True

    return prepare


class Steps(TrainerCallback):
    """Whether each optimizer step was skipped, and the watched weights after it.

    A skipped step halves the scale. `optimizer_step_was_skipped` does not know of fused optimizers, which are called
    and skip by themselves.
    """

    def __init__(self, trainer: WormTrainer) -> None:
        self.trainer = trainer
        self.scale = trainer.accelerator.scaler.get_scale()
        self.skipped: list[bool] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        scale = self.trainer.accelerator.scaler.get_scale()
        self.skipped.append(scale < self.scale)
        self.scale = scale
        self.weights.append({name: model.get_parameter(name).detach().clone() for name in QUERY_AND_KEY})


@pytest.mark.parametrize("device", DEVICES)
def test_scaled_gradients_are_truncated_once(bert: BertForSequenceClassification, tmp_path: Path, device: str) -> None:
    worm = check_truncated_once(bert, tmp_path, device, with_scaler(2.0**10), fp16=True)
    assert worm.accelerator.scaler.get_scale() == 2.0**10, "no step was skipped"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("target", ["gradient", "update", "fade"])
@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_a_step_that_overflows_changes_nothing(
    bert: BertForSequenceClassification, tmp_path: Path, device: str, target: str, optim: str
) -> None:
    """The scaler skips the step, or the fused optimizer does: the hooks around it, run or not, move no weight."""
    before = {name: bert.get_parameter(name).detach().clone() for name in QUERY_AND_KEY}
    config = WormConfig(**SHORT, truncation_target=target)
    trainer = worm_trainer(bert, tmp_path, config, fp16=True, optim=optim, use_cpu=device == "cpu")
    with_scaler(2.0**24)(trainer)
    steps = Steps(trainer)
    trainer.add_callback(steps)
    trainer.train()
    assert steps.skipped[0] and not all(steps.skipped), "both kinds of step were there"
    for step, skipped in enumerate(steps.skipped):
        earlier, later = [before, *steps.weights][step], steps.weights[step]
        same = all(torch.equal(earlier[name].to(later[name]), later[name]) for name in QUERY_AND_KEY)
        assert same == skipped or step == trainer.progress.steps["search"], "the first after the draw has other zeros"
    assert all(int((bert.get_parameter(name) == 0).sum()) == 128 for name in QUERY_AND_KEY)


@pytest.mark.parametrize("device", DEVICES)
def test_truncation_before_and_after_unscaling_is_the_same(model: nn.Sequential, device: str) -> None:
    model = model.to(device)
    search = TicketSearch(model, WormConfig(truncate_from="start", truncation=0.003))
    found = {}
    for before in (True, False):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler(device, init_scale=2.0**12)
        model.zero_grad()
        torch.manual_seed(0)
        scaler.scale(model(torch.randn(4, 4, 8, device=device)).pow(2).mean()).backward()
        if before:
            search.truncate_gradients()
        scaler.unscale_(optimizer)
        if not before:
            search.truncate_gradients()
        found[before] = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    torch.testing.assert_close(found[True], found[False], rtol=1e-6 if device == "cpu" else 1e-4, atol=1e-9)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("truncation", [0.003, 0.0])
def test_truncation_hides_no_overflow_from_the_scaler(model: nn.Sequential, value: float, truncation: float) -> None:
    """Infinity times r is infinity, times 0 it is NaN: the scaler still finds it, and skips the step."""
    search = TicketSearch(model, WormConfig(truncate_from="start", truncation=truncation, truncation_target="gradient"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(model(torch.randn(4, 4, 8)).pow(2).mean()).backward()
    weight = search.layers[0].parameter
    smallest = int(weight.detach().abs().argmin())  # pruned, whatever the ratio
    assert weight.grad is not None
    weight.grad.view(-1)[smallest] = value
    before = weights(model)
    search.truncate_gradients()
    scaler.step(optimizer)
    scaler.update()
    assert same_weights(weights(model), before)
    assert scaler.get_scale() == 1.0


# Fused and foreach optimizers.

IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (torch.optim.AdamW, torch.float32),
        (torch.optim.AdamW, torch.bfloat16),
        (torch.optim.SGD, torch.float32),  # and not bf16: in torch 2.13 fused SGD leaves bf16 weights on a CPU alone
    ],
    ids=["adamw-fp32", "adamw-bf16", "sgd-fp32"],
)
@pytest.mark.parametrize("how", IMPLEMENTATIONS)
def test_update_target_scales_exactly_the_step_that_was_done(
    bert: BertForSequenceClassification, tmp_path: Path, device: str, kind: Any, dtype: torch.dtype, how: str
) -> None:
    """Hooks set before ours see the weights around the whole step; w ← w_old + r · (w_new - w_old) comes after."""
    bert = bert.to(device=device, dtype=dtype)
    optimizer = kind(bert.parameters(), lr=1e-2, weight_decay=0.1, **IMPLEMENTATIONS[how])
    around: dict[str, list[dict[str, torch.Tensor]]] = {"before": [], "whole": [], "after": []}

    def look(when: str) -> None:
        around[when].append({name: bert.get_parameter(name).detach().clone() for name in QUERY_AND_KEY})

    optimizer.register_step_pre_hook(lambda *_: look("before"))
    optimizer.register_step_post_hook(lambda *_: look("whole"))

    class After(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            look("after")

    trainer = worm_trainer(
        bert,
        tmp_path,
        WormConfig(**NEVER, truncation_target="update"),
        optimizers=(optimizer, None),
        callbacks=[After()],
        num_train_epochs=1,
        use_cpu=device == "cpu",
    )
    trainer.search_ticket()
    start = {}
    for name, weight in around["before"][0].items():  # the mask of the first weights serves the whole first epoch
        start[name] = torch.ones(256, dtype=torch.bool)
        start[name][weight.abs().flatten().cpu().argsort(stable=True)[:128]] = False
    assert len(around["after"]) == 8
    moved = 0
    for before, whole, after in zip(*around.values(), strict=True):
        for name in QUERY_AND_KEY:
            scale = torch.where(start[name].view(16, 16), 1.0, trainer.search.config.truncation).to(before[name])
            assert torch.equal(after[name], before[name].lerp(whole[name], scale))
            kept = scale == 1
            assert torch.equal(after[name][kept], whole[name][kept])
            moved += int((whole[name] != before[name])[~kept].sum())
    assert moved > 1000, "too few steps to see, out of 4,096"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", IMPLEMENTATIONS)
def test_implementations_of_adamw_hold_the_same_zeros(
    bert: BertForSequenceClassification, tmp_path: Path, device: str, how: str
) -> None:
    bert = bert.to(device)
    twin = copy.deepcopy(bert)
    optimizers = {
        name: torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, **IMPLEMENTATIONS[implementation])
        for name, model, implementation in (("one", bert, how), ("other", twin, "for-loop"))
    }
    one = check_run(bert, tmp_path / "one", device, optimizers=(optimizers["one"], None))
    other = check_run(twin, tmp_path / "other", device, optimizers=(optimizers["other"], None))
    assert all(torch.equal(mask, other.ticket.masks[name]) for name, mask in one.ticket.masks.items())
    torch.testing.assert_close(weights(bert), weights(twin), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "sgd", "adafactor"])
def test_gradients_are_truncated_once_whatever_steps(
    bert: BertForSequenceClassification, tmp_path: Path, optim: str
) -> None:
    check_truncated_once(bert, tmp_path, optim=optim)


# Accumulation, as Accelerate can do it too.


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_accumulation_steps": 4},
        {"gradient_accumulation_steps": 3},  # the epoch's last step has two of eight
        {"gradient_accumulation_steps": 2, "accelerator_config": {"split_batches": True}},
        {
            "gradient_accumulation_steps": 2,
            "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
        },
        {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 4}}},
        {"accelerator_config": {"split_batches": True, "dispatch_batches": True}},
        {"gradient_accumulation_steps": 2, "bf16": True, "gradient_checkpointing": True},
        {"dataloader_drop_last": True, "per_device_train_batch_size": 24, "gradient_accumulation_steps": 2},
    ],
    ids=["even", "uneven", "split", "sync-each", "num-steps", "dispatch", "bf16-checkpointed", "drop-last"],
)
def test_accumulated_gradients_are_truncated_once(
    bert: BertForSequenceClassification, tmp_path: Path, changes: dict[str, Any]
) -> None:
    check_truncated_once(bert, tmp_path, **changes)


# Compilers and checkpointed activations.


@pytest.fixture
def _fresh_compiler() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=CUDA.marks)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("_fresh_compiler")
def test_a_compiled_model_goes_the_same_way_by_the_same_names(
    bert: BertForSequenceClassification, tmp_path: Path, backend: str
) -> None:
    without_dropout(bert)
    device = "cuda" if backend == "inductor" else "cpu"
    twin = copy.deepcopy(bert)
    compiled = check_run(bert, tmp_path / "compiled", device, torch_compile=True, torch_compile_backend=backend)
    plain = check_run(twin, tmp_path / "plain", device)
    assert isinstance(compiled.model_wrapped, torch._dynamo.OptimizedModule)
    assert [layer.name for layer in compiled.search.layers] == QUERY_AND_KEY
    assert compiled.search.history == plain.search.history
    saved = {kind: load_file(tmp_path / kind / "model.safetensors") for kind in ("compiled", "plain")}
    assert list(saved["compiled"]) == list(saved["plain"])
    if backend == "eager" and torch.__version__ >= "2.9":
        assert same_weights(weights(bert), weights(twin))
    else:
        torch.testing.assert_close(weights(bert), weights(twin), rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_model_that_the_user_compiled(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    """In place, as `model.compile()` does; a search by hand takes the wrapped one too, under the same names."""
    twin = copy.deepcopy(bert)
    bert.compile(backend="eager")
    check_run(bert, tmp_path / "compiled")
    check_run(twin, tmp_path / "plain")
    assert same_weights(weights(bert), weights(twin))
    wrapped = torch.compile(copy.deepcopy(twin), backend="eager")
    search = TicketSearch(wrapped, WormConfig())
    search.observe()
    assert list(search.draw().masks) == QUERY_AND_KEY


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_gradients_are_truncated_once(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    without_dropout(bert)
    check_truncated_once(bert, tmp_path, torch_compile=True, torch_compile_backend="eager")


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_activations_change_nothing(
    bert: BertForSequenceClassification, tmp_path: Path, reentrant: bool
) -> None:
    """Dropout included: the recomputed pass draws the same random numbers."""
    twin = copy.deepcopy(bert)
    changes = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    check_run(bert, tmp_path / "checkpointed", **changes)
    check_run(twin, tmp_path / "plain")
    assert bert.is_gradient_checkpointing
    assert same_weights(weights(bert), weights(twin))
