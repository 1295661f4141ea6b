"""Tickets: applied, held while training, saved, read, and refused where they do not fit."""

import copy
import dataclasses
import json
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from zoo import zoo_model

from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.ticket import Ticket
from hf_worm.units import representative_layers

HISTORY = [
    Observation(0, (), None, None, False, False),
    Observation(1, (0.1,), 0.1, 0.1, False, False),
    Observation(2, (1 / 3, 0.001), 1 / 3, (1 / 3 + 0.001) / 2, True, True),
]
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd with momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1),
}


def random_ticket(model: nn.Module, *suffixes: str, **fields: Any) -> Ticket:
    """A ticket for the parameters whose names end so, by default queries and keys, with masks drawn by lot."""
    suffixes = suffixes or ("query.weight", "key.weight")
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if name.endswith(suffixes)]
    masks = {name: torch.rand(parameter.shape) < 0.6 for name, parameter in parameters}
    return Ticket(masks, fields.pop("config", WormConfig()), **fields)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(torch.randn(16, 4, 8))
        nn.functional.cross_entropy(logits, torch.arange(16) % 2).backward()
        optimizer.step()


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_sparsity_is_the_share_of_pruned_units() -> None:
    masks = {"query.weight": torch.tensor([[True, False], [False, False]]), "key.weight": torch.ones(6).bool()}
    assert Ticket(masks, WormConfig()).sparsity == 3 / 10


def test_a_bare_ticket_has_no_history_and_has_not_converged(model: nn.Module) -> None:
    ticket = random_ticket(model)
    assert ticket.history == [] and ticket.converged is False


def test_a_ticket_and_a_layer_are_shown_without_their_tensors(model: nn.Module) -> None:
    ticket = Ticket({"a": torch.tensor([True, False])}, WormConfig(window=4), converged=True)
    assert repr(ticket).startswith("Ticket(layers=1, sparsity=0.5, converged=True, WormConfig(")
    assert "window=4" in repr(ticket) and "tensor" not in repr(ticket)
    shown = repr(representative_layers(model, ["query=0.25"])[0])
    assert shown.startswith("RepresentativeLayer('") and shown.endswith("granularity='weight', prune_ratio=0.25)")


def test_apply_zeroes_what_is_pruned_and_nothing_else(model: nn.Module) -> None:
    ticket = random_ticket(model)
    before, buffers = weights_of(model), {name: id(parameter) for name, parameter in model.named_parameters()}
    assert ticket.apply_(model) is model
    for name, parameter in model.named_parameters():
        mask = ticket.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        expected = torch.where(mask, before[name], 0)
        assert torch.equal(parameter, expected)
        assert id(parameter) == buffers[name]
    assert len(ticket.masks) == 4


def test_shuffled_prunes_as_many_of_each_layer_at_random(model: nn.Module, tmp_path: Path) -> None:
    ticket = random_ticket(model, "weight")
    given = {name: mask.clone() for name, mask in ticket.masks.items()}
    controls = [ticket.shuffled(seed) for seed in range(40)]
    for control in controls:
        assert list(control.masks) == list(given)
        for name, mask in given.items():
            assert control.masks[name].shape == mask.shape and control.masks[name].sum() == mask.sum()
        assert control.config is ticket.config and control.history is ticket.history
    for name, mask in given.items():
        assert torch.equal(ticket.masks[name], mask), "it stays as it is"
        often = torch.stack([control.masks[name] for control in controls]).float().mean(0)
        share = mask.float().mean()
        assert (often - share).abs().max() < 5 * (share * (1 - share) / len(controls)).sqrt(), "each unit is as likely"
    ticket.save_pretrained(tmp_path)
    again = Ticket.from_pretrained(tmp_path).shuffled(7)
    assert all(torch.equal(mask, controls[7].masks[name]) for name, mask in again.masks.items())


def test_tickets_are_told_apart_as_objects(model: nn.Module) -> None:
    ticket = random_ticket(model)
    assert ticket == ticket and ticket != copy.deepcopy(ticket) and len({ticket, ticket}) == 1


def test_gradients_of_pruned_weights_can_be_zeroed_before_they_are_clipped(model: nn.Module) -> None:
    ticket = random_ticket(model)
    held = ticket.hold(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model(torch.randn(3, 4, 8)).sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    held.zero_gradients()
    for name, parameter in model.named_parameters():
        mask = ticket.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter.grad, gradients[name] * mask)
    assert any(not mask.all() and gradients[name][~mask].any() for name, mask in ticket.masks.items())


def test_apply_makes_zeros_of_nan_too(model: nn.Module) -> None:
    ticket = random_ticket(model)
    name, mask = next(iter(ticket.masks.items()))
    model.get_parameter(name).data[~mask] = torch.nan
    ticket.apply_(model)
    assert (model.get_parameter(name)[~mask] == 0).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_held_weights_are_zero_after_every_step(
    model: nn.Module, optimizer: Callable[[nn.Module], torch.optim.Optimizer]
) -> None:
    ticket, stepper = random_ticket(model), optimizer(model)
    train(model, stepper, 5)  # momentum from before the draw
    start = weights_of(model)
    handle = ticket.hold(model, stepper)
    steps = 8
    for step in range(steps + 1):
        for name, mask in ticket.masks.items():
            weight = model.get_parameter(name)
            assert (weight[~mask] == 0).all()
            assert torch.equal(weight[mask], start[name][mask]) == (step == 0)  # kept weights train
        if step < steps:
            train(model, stepper)
    handle.remove()
    train(model, stepper)
    assert any((model.get_parameter(name)[~mask] != 0).any() for name, mask in ticket.masks.items())


def test_holding_clears_what_the_optimizer_gathered_of_pruned_weights(model: nn.Module) -> None:
    """Schedule-free optimizers keep weights of their own, and would mix them into the model's."""
    ticket, stepper = random_ticket(model), torch.optim.AdamW(model.parameters())
    train(model, stepper, 3)
    before = copy.deepcopy(stepper.state_dict()["state"])
    ticket.hold(model, stepper)
    for place, (name, parameter) in enumerate(model.named_parameters()):
        mask = ticket.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        for kind in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(stepper.state[parameter][kind], torch.where(mask, before[place][kind], 0))
        assert stepper.state[parameter]["step"] == 3


def test_holding_clears_the_directions_of_an_lbfgs(model: nn.Module) -> None:
    """It keeps those of all weights in one: with pruned ones in them, the steps on the kept ones grow without bound."""
    ticket, inputs = random_ticket(model), torch.randn(6, 4, 8)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    twin = copy.deepcopy(model)
    ticket.hold(model, optimizer)
    kept = [optimizer.step(closure).item() for _ in range(4)]
    model.load_state_dict(twin.state_dict())
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1)
    ticket.hold(model, optimizer)
    assert kept == [optimizer.step(closure).item() for _ in range(4)] and kept[-1] < kept[0]


class Averaging(torch.optim.Optimizer):
    """Wraps an optimizer, and has the model's weights be the mean of all that it has stepped to."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer.param_groups, {})
        self.optimizer = optimizer

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for weight in (weight for group in self.param_groups for weight in group["params"]):
                state = self.state[weight]
                if state:
                    weight.copy_(state["own"])
        self.optimizer.step()
        with torch.no_grad():
            for weight in (weight for group in self.param_groups for weight in group["params"]):
                state = self.state[weight]
                state["own"] = weight.clone()
                state["mean"] = state.get("mean", weight).lerp(weight, 0.5)

    def averaged(self) -> dict[nn.Parameter, torch.Tensor]:
        return {weight: state["mean"] for weight, state in self.state.items()}


def test_holding_clears_what_an_optimizer_within_another_gathered(model: nn.Module) -> None:
    ticket = random_ticket(model)
    optimizer = Averaging(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    train(model, optimizer, 3)
    ticket.hold(model, optimizer)
    train(model, optimizer, 3)
    means = optimizer.averaged()
    assert all((means[model.get_parameter(name)][~mask] == 0).all() for name, mask in ticket.masks.items())


def test_what_is_held_can_be_copied_and_pickled(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    handle = random_ticket(model).hold(model, optimizer)
    for other in (copy.deepcopy(handle), pickle.loads(pickle.dumps(handle))):
        other.remove()  # has no optimizer
    train(model, optimizer)
    assert all(int((weight == 0).sum()) > 0 for name, weight in model.named_parameters() if "query.weight" in name)


def test_an_optimizer_without_hooks_is_refused_and_the_model_stays(model: nn.Module) -> None:
    before, weights = weights_of(model), list(model.parameters())
    without = SimpleNamespace(param_groups=[{"params": weights}], state={}, step=lambda: None)
    for wrong in (without, weights):
        with pytest.raises(TypeError, match="its step has no hooks"):
            random_ticket(model).hold(model, wrong)  # type: ignore[arg-type]
    assert all(torch.equal(before[name], now) for name, now in weights_of(model).items())


def test_sparse_gradients_can_be_held() -> None:
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True))
    ticket = Ticket({"0.weight": torch.rand(5, 4) < 0.5}, WormConfig(layers=["0.weight"]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ticket.hold(model, optimizer)
    for _ in range(2):
        model(torch.tensor([0, 1, 2, 3, 4])).square().sum().backward()
        optimizer.step()
    weight = model.get_parameter("0.weight")
    assert torch.equal(weight != 0, ticket.masks["0.weight"])


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.Adam])
@pytest.mark.parametrize("by_name", [False, True])
def test_gradients_that_a_closure_computes_are_held_too(
    model: nn.Module, kind: type[torch.optim.Optimizer], by_name: bool
) -> None:
    twin, ticket, inputs = copy.deepcopy(model), random_ticket(model), torch.randn(6, 4, 8)
    for name, parameter in ticket.apply_(twin).named_parameters():
        if name in ticket.masks:
            parameter.register_hook(lambda gradient, mask=ticket.masks[name]: gradient * mask)
    losses = {}
    for one in (model, twin):
        optimizer = kind(one.parameters(), lr=0.1)
        if one is model:
            ticket.hold(one, optimizer)

        def closure(one: nn.Module = one, optimizer: torch.optim.Optimizer = optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            loss = one(inputs).square().mean()
            loss.backward()
            return loss

        losses[one] = [float(optimizer.step(closure=closure) if by_name else optimizer.step(closure)) for _ in range(4)]
    assert losses[model] == losses[twin] and losses[model][-1] < losses[model][0]
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


def test_holding_changes_no_other_weight(model: nn.Module) -> None:
    ticket = random_ticket(model)
    ticket.apply_(model)
    twin = copy.deepcopy(model)
    stepper, plain = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, twin))
    ticket.hold(model, stepper)
    torch.manual_seed(1)
    train(model, stepper)
    torch.manual_seed(1)
    train(twin, plain)
    for name, parameter in model.named_parameters():
        mask = ticket.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter, torch.where(mask, twin.get_parameter(name), 0))


def test_a_batchnorm_ticket_zeroes_scale_and_shift() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[1].bias)
    mask = torch.tensor([True, False] * 4)
    ticket = Ticket({"1.weight": mask}, WormConfig.cnn())
    before = weights_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    handle = ticket.hold(model, optimizer)
    for name in ("1.weight", "1.bias"):
        assert torch.equal(model.get_parameter(name), torch.where(mask, before[name], 0))
    for name in ("0.weight", "3.weight"):
        assert torch.equal(model.get_parameter(name), before[name])
    model(torch.randn(5, 6)).sum().backward()
    optimizer.step()
    for name in ("1.weight", "1.bias"):
        assert (model.get_parameter(name)[~mask] == 0).all()
        assert (model.get_parameter(name)[mask] != before[name][mask]).any()
    handle.remove()
    model.eval()
    assert (model[1](torch.randn(5, 8))[:, ~mask] == 0).all()  # the pruned channels are silent


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda m: torch.compile(nn.DataParallel(m))])
def test_wrappers_that_add_prefixes_make_no_difference(model: nn.Module, wrap: Callable[..., Any]) -> None:
    ticket = random_ticket(model)
    wrapped = wrap(model)
    assert all(name not in dict(wrapped.named_parameters()) for name in ticket.masks)
    ticket.apply_(wrapped)
    assert all((model.get_parameter(name)[~mask] == 0).all() for name, mask in ticket.masks.items())


def test_apply_to_bert_after_a_round_trip_through_a_folder(bert: nn.Module, tmp_path: Path) -> None:
    ticket = random_ticket(bert)
    ticket.save_pretrained(tmp_path)
    other = copy.deepcopy(bert)
    ticket.apply_(bert)
    Ticket.from_pretrained(tmp_path).apply_(other)
    assert len(ticket.masks) == 4
    for (name, one), two in zip(bert.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        assert ((one == 0).sum() > 0) or name not in ticket.masks


def test_a_model_with_other_layers_is_refused_and_left_alone(model: nn.Module) -> None:
    ticket = random_ticket(model)
    other = nn.ModuleDict({"query": nn.Linear(8, 8), "key": nn.Linear(8, 8)})
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    before = weights_of(other)
    for refused in (lambda: ticket.apply_(other), lambda: ticket.hold(other, optimizer)):
        with pytest.raises(ValueError, match="are not those of the ticket") as error:
            refused()
        message = str(error.value)
        assert "`ModuleDict`" in message
        assert "`query.weight` (8, 8)" in message  # what the model has
        assert "`0.query.weight` (8, 8)" in message  # and what the ticket has
    assert all(torch.equal(parameter, before[name]) for name, parameter in other.named_parameters())


def test_layers_of_another_shape_are_refused_by_name_and_shapes(model: nn.Module) -> None:
    ticket = random_ticket(model)
    ticket.masks["1.key.weight"] = torch.ones(8, 7, dtype=torch.bool)
    with pytest.raises(ValueError, match="are not those of the ticket") as error:
        ticket.apply_(model)
    assert "`1.key.weight` (8, 8)" in str(error.value) and "`1.key.weight` (8, 7)" in str(error.value)
    assert "`1.query.weight`" not in str(error.value)  # it fits


def test_a_ticket_that_lacks_a_layer_is_refused(model: nn.Module) -> None:
    ticket = random_ticket(model)
    del ticket.masks["1.key.weight"]
    with pytest.raises(ValueError, match=re.escape("has `1.key.weight` (8, 8); the ticket has nothing more")):
        ticket.apply_(model)


def test_saved_and_read_again(model: nn.Module, tmp_path: Path) -> None:
    config = WormConfig(layers=["*.weight"], scope="global")
    ticket = random_ticket(model, ".weight", config=config, history=HISTORY, converged=True)
    folder = tmp_path / "made" / "on the way"
    ticket.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == {"ticket.safetensors", "worm_config.json", "worm_history.json"}
    for where in (folder, str(folder)):
        read = Ticket.from_pretrained(where)
        assert list(read.masks) == list(ticket.masks)
        for name, mask in ticket.masks.items():
            assert read.masks[name].dtype == torch.bool and torch.equal(read.masks[name], mask)
        assert read.config == config and read.history == HISTORY and read.converged is True
        assert read.sparsity == ticket.sparsity


def test_the_same_ticket_is_the_same_bytes(model: nn.Module, tmp_path: Path) -> None:
    """safetensors orders the metadata by chance, anew for each file."""
    masks = random_ticket(model, ".weight").masks
    masks['größe/"\\\n\x1f'] = torch.tensor([True, False])
    for number in range(8):
        Ticket(masks, WormConfig()).save_pretrained(tmp_path / str(number))
    contents = {(tmp_path / str(number) / "ticket.safetensors").read_bytes() for number in range(8)}
    assert len(contents) == 1
    read = Ticket.from_pretrained(tmp_path / "0").masks
    assert read.keys() == masks.keys() and all(torch.equal(read[name], mask) for name, mask in masks.items())


def test_masks_of_any_size_are_saved_in_one_bit_per_unit(tmp_path: Path) -> None:
    masks = {f"{shape}": torch.rand(shape) < 0.5 for shape in [(1,), (7,), (8,), (9, 3), (2, 3, 5)]}
    Ticket(masks, WormConfig()).save_pretrained(tmp_path)
    with safe_open(tmp_path / "ticket.safetensors", framework="pt") as file:
        sizes = {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118 (not a mapping)
    assert sizes == {name: math.ceil(mask.numel() / 8) for name, mask in masks.items()}
    read = Ticket.from_pretrained(tmp_path)
    assert all(torch.equal(read.masks[name], mask) for name, mask in masks.items())


def test_the_history_file_can_be_read_without_hf_worm(model: nn.Module, tmp_path: Path) -> None:
    parts = {"score": "fisher", "select": "layer", "schedule": "early_bird", "treatment": "gradient"}
    ticket = random_ticket(model, history=HISTORY, converged=True, parts=parts)
    ticket.save_pretrained(tmp_path)
    assert Ticket.from_pretrained(tmp_path).parts == parts
    history = json.loads((tmp_path / "worm_history.json").read_text())
    observations = [{**dataclasses.asdict(seen), "distances": list(seen.distances)} for seen in HISTORY]
    assert history == {
        "converged": True,
        "sparsity": ticket.sparsity,
        "parts": parts,
        "observations": observations,
    }


def test_a_repository_is_read_through_the_hub(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = random_ticket(model, history=HISTORY)
    ticket.save_pretrained(tmp_path)
    asked = []

    def download(repo: str, name: str, **options: Any) -> str:
        asked.append((repo, name, options))
        return str(tmp_path / name)

    monkeypatch.setattr("hf_worm.files.hf_hub_download", download)
    read = Ticket.from_pretrained("someone/a-ticket", revision="v1")
    assert read.history == HISTORY and list(read.masks) == list(ticket.masks)
    names = ("ticket.safetensors", "worm_config.json", "worm_history.json")
    assert sorted(asked) == [("someone/a-ticket", name, {"revision": "v1"}) for name in names]


def test_a_subfolder_is_read(model: nn.Module, tmp_path: Path) -> None:
    first, second = (random_ticket(model) for _ in range(2))
    first.save_pretrained(tmp_path)
    second.save_pretrained(tmp_path / "checkpoint-9")
    read = Ticket.from_pretrained(tmp_path, subfolder="checkpoint-9")
    assert all(torch.equal(read.masks[name], mask) for name, mask in second.masks.items())
    assert any(not torch.equal(read.masks[name], mask) for name, mask in first.masks.items())


@pytest.mark.parametrize("name", ["ticket.safetensors", "worm_config.json", "worm_history.json"])
def test_a_missing_file_is_named(name: str, model: nn.Module, tmp_path: Path) -> None:
    random_ticket(model).save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path} holds no `{name}`")):
        Ticket.from_pretrained(tmp_path)


@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(left: int, model: nn.Module, tmp_path: Path) -> None:
    random_ticket(model).save_pretrained(tmp_path)
    file = tmp_path / "ticket.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(ValueError, match=re.escape(f"{file} is damaged or not a safetensors file")):
        Ticket.from_pretrained(tmp_path)


def with_metadata(masks: dict[str, torch.Tensor], **metadata: str) -> Callable[[Path], None]:
    return lambda file: save_file(masks, file, metadata=metadata or None)


BYTE = {"query.weight": torch.zeros(1, dtype=torch.uint8)}
V1 = "hf_worm.ticket.v1"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (with_metadata(BYTE), "is not a ticket: its format is None"),
        (with_metadata(BYTE, format="pt"), "is not a ticket: its format is 'pt'"),
        (with_metadata(BYTE, format="hf_worm.ticket.v9", shapes="{}"), "its format is 'hf_worm.ticket.v9', not"),
        (with_metadata(BYTE, format=V1), "is damaged: 'shapes'"),
        (with_metadata(BYTE, format=V1, shapes="{"), "is damaged"),
        (with_metadata(BYTE, format=V1, shapes="null"), "is damaged"),
        (with_metadata(BYTE, format=V1, shapes="{}"), "is damaged: its shapes do not name its masks"),
        (with_metadata({}, format=V1, shapes="{}"), "is damaged: its shapes do not name its masks"),
        (with_metadata(BYTE, format=V1, shapes='{"key.weight": [8]}'), "is damaged: its shapes do not name its masks"),
        (with_metadata(BYTE, format=V1, shapes='["query.weight"]'), "is damaged"),
        (with_metadata(BYTE, format=V1, shapes='{"query.weight": null}'), "is damaged"),
        (with_metadata(BYTE, format=V1, shapes='{"query.weight": "8"}'), "is damaged"),
        (with_metadata(BYTE, format=V1, shapes='{"query.weight": [9]}'), r"is damaged: A packed mask of shape \(9,\)"),
        (with_metadata(BYTE, format=V1, shapes='{"query.weight": [-2, -4]}'), "is damaged"),
        (with_metadata({"q": torch.tensor([255], dtype=torch.uint8)}, format=V1, shapes='{"q": [7]}'), "past its 7"),
        (with_metadata({"q": torch.zeros(8)}, format=V1, shapes='{"q": [64]}'), "got torch.float32"),
    ],
)
def test_masks_that_save_pretrained_does_not_write_are_refused(
    write: Callable[[Path], None], message: str, model: nn.Module, tmp_path: Path
) -> None:
    random_ticket(model).save_pretrained(tmp_path)
    file = tmp_path / "ticket.safetensors"
    write(file)
    with pytest.raises(ValueError, match=message) as error:
        Ticket.from_pretrained(tmp_path)
    assert str(file) in str(error.value)


OLD = Path(__file__).parent / "v0_1_0"


@pytest.mark.parametrize("name", ["weights", "compact", "continued"])
def test_a_ticket_that_version_0_1_0_wrote_is_read(name: str, bert: nn.Module) -> None:
    ticket = Ticket.from_pretrained(OLD / name)
    report = json.loads((OLD / name / "worm_history.json").read_text())
    assert ticket.parts == {} and ticket.sparsity == report["sparsity"]
    assert len(ticket.history) == len(report["observations"]) and ticket.converged == report["converged"]
    assert (ticket.config.score, ticket.config.schedule, ticket.config.scope) == ("magnitude", "early_bird", "layer")
    ticket.apply_(bert)
    again = Ticket.from_zeros(bert, ticket.config.layers)
    assert all(torch.equal(mask, again.masks[layer]) for layer, mask in ticket.masks.items())


def test_parts_that_are_no_names_are_refused(model: nn.Module, tmp_path: Path) -> None:
    random_ticket(model, parts={"score": "fisher"}).save_pretrained(tmp_path)
    file = tmp_path / "worm_history.json"
    for wrong in (["fisher"], {"score": 3}):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"parts": wrong}))
        with pytest.raises(ValueError, match=r"is not the history of a search: `parts` must hold names"):
            Ticket.from_pretrained(tmp_path)


@pytest.mark.parametrize("layers", [["query", "key"], ["*.value.weight"]])
def test_the_ticket_of_weights_that_are_zero_already(model: nn.Module, layers: list[str]) -> None:
    for parameter in model.parameters():
        parameter.data[torch.rand(parameter.shape) < 0.3] = 0
    ticket = Ticket.from_zeros(model, layers)
    assert list(ticket.masks) == [layer.name for layer in representative_layers(model, layers)]
    assert all(torch.equal(mask, model.get_parameter(name) != 0) for name, mask in ticket.masks.items())
    assert ticket.config == WormConfig(layers=layers, prune_ratio=ticket.sparsity) and 0.2 < ticket.sparsity < 0.4
    assert ticket.history == [] and ticket.parts == {} and not ticket.converged


def test_a_unit_is_pruned_in_a_model_of_zeros_if_all_its_weights_are_zero() -> None:
    bert = zoo_model("bert")
    words = ["neurons", "heads"]
    layers = representative_layers(bert, words)
    masks = {layer.name: torch.rand(layer.shape) < 0.5 for layer in layers}
    for layer in layers:
        layer.zero_(masks[layer.name])
        spared = int((~masks[layer.name]).nonzero()[0])
        layer.views[-1].weight[spared, -1, -1] = 0.5  # all but one of its weights
        masks[layer.name][spared] = True
    ticket = Ticket.from_zeros(bert, words)
    assert all(torch.equal(mask, masks[name]) for name, mask in ticket.masks.items())
    norms = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with torch.no_grad():
        norms[1].weight.copy_(torch.tensor([0.0, 0.0, 1.0, 1.0]))
        norms[1].bias.copy_(torch.tensor([0.0, 2.0, 0.0, 2.0]))
    assert Ticket.from_zeros(norms, ["batchnorm"]).masks["1.weight"].tolist() == [False, True, True, True]


def test_a_model_of_which_nothing_is_left_has_no_ticket(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.zero_()
    with pytest.raises(ValueError, match=r"All weights of \['query'\] are 0 in this `Sequential`: no ticket is left"):
        Ticket.from_zeros(model, ["query"])


SEEN = '{"index": 0, "distances": [], "max_distance": null, "mean_distance": null, "truncating": false'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is damaged or not JSON"),
        ('{"converged": true, "obs', "is damaged or not JSON"),
        ("{}", "is not the history of a search: KeyError"),
        ("[]", "is not the history of a search"),
        ("null", "is not the history of a search"),
        ('{"observations": []}', "is not the history of a search: KeyError.*converged"),
        ('{"converged": true, "observations": null}', "is not the history of a search"),
        ('{"converged": true, "observations": [1]}', "is not the history of a search.*an observation needs"),
        (f'{{"converged": true, "observations": [{SEEN}}}]}}', "is not the history of a search.*an observation needs"),
        (
            f'{{"converged": true, "observations": [{SEEN}, "converged": false, "more": 1}}]}}',
            "is not the history of a search.*an observation needs",
        ),
    ],
)
def test_a_history_that_save_pretrained_does_not_write_is_refused(
    content: str, message: str, model: nn.Module, tmp_path: Path
) -> None:
    random_ticket(model).save_pretrained(tmp_path)
    file = tmp_path / "worm_history.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        Ticket.from_pretrained(tmp_path)
    assert str(file) in str(error.value)


def test_damaged_settings_are_refused(model: nn.Module, tmp_path: Path) -> None:
    random_ticket(model).save_pretrained(tmp_path)
    (tmp_path / "worm_config.json").write_text('{"window": 1}')
    with pytest.raises(ValueError, match="`window` must be a whole number of at least 2, got 1"):
        Ticket.from_pretrained(tmp_path)
