"""What each process of tests/test_fsdp.py runs: `FOLDER`. It asserts nothing: it writes what happened, and goes on.

Each case trains a model in one piece and a copy of it under `fully_shard`, by the same loop on the same data.
"""

import copy
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from hf_worm.config import WormConfig
from hf_worm.core import masks as masks_module
from hf_worm.core.sharding import full, is_sharded, local
from hf_worm.search import TicketSearch
from hf_worm.ticket import Ticket
from hf_worm.units import RepresentativeLayer
from hf_worm.units.layer import View

EPOCHS, HELD_STEPS = 6, 3


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = (self.query(x) @ self.key(x).transpose(-1, -2)).softmax(-1)
        return x + weights @ self.value(x)


def attentions(width: int) -> nn.Sequential:
    return nn.Sequential(Attention(width), Attention(width), nn.Flatten(), nn.Linear(4 * width, 2))


def cnn() -> nn.Sequential:
    """BatchNorms of 9, 5 and 1 channels: uneven shards, and one that is empty on the second process."""
    blocks = []
    for inner, outer in ((2, 9), (9, 5), (5, 1)):
        norm = nn.BatchNorm2d(outer)
        nn.init.uniform_(norm.weight, 0.9, 1.1)
        nn.init.normal_(norm.bias)
        blocks.append(nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1, bias=False), norm, nn.ReLU()))
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(16, 2))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)


def sgd_one_by_one(model: nn.Module) -> torch.optim.Optimizer:
    """The fused loops of torch's optimizers take sharded and whole parameters apart only."""
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, foreach=False)


@dataclass
class Case:
    model: Callable[[], nn.Sequential]
    inputs: tuple[int, ...]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    shard: Callable[..., Any]
    settings: dict[str, Any] = field(default_factory=dict)
    accumulate: int = 1


def each_block_and_the_rest(model: nn.Sequential, **options: Any) -> None:
    for block in model[:2]:
        fully_shard(block, **options)
    fully_shard(model, **options)


def only_the_first_block(model: nn.Sequential, **options: Any) -> None:
    fully_shard(model[0], **options)


def all_but_the_shift_of_the_first_norm(model: nn.Sequential, **options: Any) -> None:
    fully_shard(model, ignored_params={model[0][1].bias}, **options)


def by_columns(model: nn.Sequential, **options: Any) -> None:
    fully_shard(model, shard_placement_fn=lambda p: Shard(1) if p.shape == (8, 8) else None, **options)


WIDE = {"stopping_point": 0.15, "margin": 0.1, "truncation": 0.01}
LATER = {"stopping_point": 0.05, "margin": 0.01}  # than the first distance
CNN = {**WIDE, "layers": ["batchnorm"]}
CASES = {
    "attention": Case(lambda: attentions(7), (6, 4, 7), sgd, each_block_and_the_rest, WIDE),
    "attention, update, global": Case(
        lambda: attentions(7),
        (6, 4, 7),
        adamw,
        each_block_and_the_rest,
        {**WIDE, "truncation_target": "update", "scope": "global"},
    ),
    "attention, global, from the start": Case(
        lambda: attentions(7), (6, 4, 7), adamw, fully_shard, {**WIDE, "scope": "global", "truncate_from": "start"}
    ),
    "attention, accumulated": Case(
        lambda: attentions(7), (6, 4, 7), sgd, each_block_and_the_rest, {**WIDE, **LATER}, accumulate=2
    ),
    "attention, bfloat16": Case(  # torch's SGD rounds the end of an odd number of weights differently: an even number
        lambda: attentions(8).to(torch.bfloat16), (6, 4, 8), sgd, each_block_and_the_rest, {**WIDE, "scope": "global"}
    ),
    "attention, by columns": Case(lambda: attentions(8), (6, 4, 8), sgd, by_columns, WIDE),
    "attention, only one sharded": Case(lambda: attentions(7), (6, 4, 7), sgd_one_by_one, only_the_first_block, WIDE),
    "attention, only one sharded, global": Case(
        lambda: attentions(7),
        (6, 4, 7),
        sgd_one_by_one,
        only_the_first_block,
        {**WIDE, "scope": "global", "truncation_target": "update"},
    ),
    "attention, fading": Case(
        lambda: attentions(7), (6, 4, 7), adamw, each_block_and_the_rest, {**WIDE, "truncation_target": "fade"}
    ),
    "attention, fisher": Case(
        lambda: attentions(7), (6, 4, 7), adamw, each_block_and_the_rest, {**WIDE, "score": "fisher"}
    ),
    "attention, only one sharded, taylor": Case(
        lambda: attentions(7),
        (6, 4, 7),
        sgd_one_by_one,
        only_the_first_block,
        {**WIDE, "scope": "global", "score": "taylor", "score_decay": 0.9},
    ),
    "attention, 2:4": Case(
        lambda: attentions(8), (6, 4, 8), sgd, by_columns, {**WIDE, "scope": "2:4", "score": "fisher"}
    ),
    "attention, cubic": Case(
        lambda: attentions(7), (6, 4, 7), adamw, fully_shard, {**WIDE, "schedule": "cubic", "ramp_epochs": 5.0}
    ),
    "cnn": Case(cnn, (6, 2, 4, 4), adamw, each_block_and_the_rest, CNN),
    "cnn, one shift whole, fisher": Case(
        cnn, (6, 2, 4, 4), sgd_one_by_one, all_but_the_shift_of_the_first_norm, {**CNN, "score": "fisher"}
    ),
    "cnn, update, from the start": Case(
        cnn, (6, 2, 4, 4), sgd, fully_shard, {**CNN, "truncation_target": "update", "truncate_from": "start"}
    ),
    "cnn, global": Case(cnn, (6, 2, 4, 4), sgd, fully_shard, {**CNN, "scope": "global"}),
    "cnn, one shift whole": Case(
        cnn, (6, 2, 4, 4), sgd_one_by_one, all_but_the_shift_of_the_first_norm, {**CNN, "truncation_target": "fade"}
    ),
}


class Operations(TorchDispatchMode):
    """Names of the tensor operations under it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def whole_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """From the shards, and not from copies of them that an evaluation gathered."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    return {name: full(parameter).detach().clone() for name, parameter in model.named_parameters()}


def whole_gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: full(parameter.grad).clone() for name, parameter in model.named_parameters()}


def evaluate(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Under `fully_shard` this leaves the root's parameters gathered."""
    model.eval()
    with torch.no_grad():
        outputs = model(inputs)
    model.train()
    return outputs


def backward(case: Case, model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for micro in range(case.accumulate):
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(micro + 1 == case.accumulate)
        inputs = torch.randn(case.inputs, generator=generator).to(next(model.parameters()).dtype)
        (cross_entropy(model(inputs), torch.arange(len(inputs)) % 2) / case.accumulate).backward()


def train(case: Case, model: nn.Module) -> dict[str, Any]:
    """The plain loop, and what it found."""
    config, optimizer = WormConfig(**case.settings), case.optimizer(model)
    search = TicketSearch(model, config)
    search.attach(optimizer, steps_per_epoch=3)
    found: dict[str, Any] = {"names": [name for name, _ in model.named_parameters()], "masks": []}
    batch = torch.randn(case.inputs, generator=torch.Generator().manual_seed(99)).to(next(model.parameters()).dtype)
    for epoch in range(EPOCHS):
        for step in range(3):
            optimizer.zero_grad()  # not `model`'s, whose parameters may be the gathered ones
            backward(case, model, 3 * epoch + step)
            search.truncate_gradients()
            if epoch + 1 == EPOCHS:
                found["gradients"] = whole_gradients(model)
            optimizer.step()
        evaluate(model, batch)
        search.observe()
        found["masks"].append(search.masks)
    found |= {"history": search.history, "state": copy.deepcopy(search.state_dict()), "trained": whole_weights(model)}
    for step in range(2):  # the first after an observation builds the scales
        optimizer.zero_grad()
        backward(case, model, 100 + step)
        with Operations() as truncation:
            search.truncate_gradients()
        optimizer.zero_grad()
        with Operations() as step_without_gradients:
            optimizer.step()
    found |= {"truncation": truncation.names, "step": step_without_gradients.names}
    evaluate(model, batch)
    ticket = search.draw()
    found |= {"ticket": ticket.masks, "sparsity": ticket.sparsity, "drawn outputs": evaluate(model, batch)}
    found["drawn"] = whole_weights(model)
    evaluate(model, batch)
    ticket.hold(model, optimizer)
    found["held"] = []
    for step in range(HELD_STEPS):
        optimizer.zero_grad()
        backward(case, model, 200 + step)
        optimizer.step()
        found["held"].append(whole_weights(model))
    return found


def resume(case: Case, model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Go on from a state."""
    search = TicketSearch(model, WormConfig(**{**case.settings, "truncation_target": "gradient"}))
    search.load_state_dict(state)
    search.attach(case.optimizer(model), steps_per_epoch=3)
    backward(case, model, 300)
    search.truncate_gradients()
    found: dict[str, Any] = {"masks": search.masks, "gradients": whole_gradients(model)}
    found["seen"] = search.observe()
    found["state"] = copy.deepcopy(search.state_dict())
    return found


def run(case: Case, mesh: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    model = case.model()
    fresh, sharded = copy.deepcopy(model), copy.deepcopy(model)
    case.shard(sharded, mesh=mesh)
    shards = {name: tuple(local(p).shape) for name, p in sharded.named_parameters() if is_sharded(p)}
    found = {"whole": train(case, model), "sharded": train(case, sharded), "shards": shards}

    model, sharded = copy.deepcopy(fresh), copy.deepcopy(fresh)
    case.shard(sharded, mesh=mesh)
    found["whole resumed"] = resume(case, model, found["sharded"]["state"])
    found["sharded resumed"] = resume(case, sharded, found["whole"]["state"])

    model, sharded = copy.deepcopy(fresh), copy.deepcopy(fresh)
    case.shard(sharded, mesh=mesh)
    batch = torch.randn(case.inputs).to(next(model.parameters()).dtype)
    ticket = Ticket(found["whole"]["ticket"], WormConfig(**case.settings))
    for m in (model, sharded):
        evaluate(m, batch)
        ticket.apply_(m)
    found["outputs applied"] = [evaluate(m, batch) for m in (model, sharded)]
    found["applied"] = [whole_weights(m) for m in (model, sharded)]
    return found


def gathered_at_once(mesh: Any) -> list[int]:
    """How many layers that were gathered are still there when the next is."""
    model = attentions(7)
    fully_shard(model, mesh=mesh)
    alive: list[weakref.ref[torch.Tensor]] = []
    counts = []

    def watched(tensor: torch.Tensor) -> torch.Tensor:
        if not is_sharded(tensor):
            return tensor
        counts.append(sum(reference() is not None for reference in alive))
        gathered = full(tensor)
        alive.append(weakref.ref(gathered))
        return gathered

    masks_module.full = watched
    try:
        for scope in ("layer", "global"):
            TicketSearch(model, WormConfig(scope=scope)).observe()
    finally:
        masks_module.full = full
    return counts


def gathered_in_parallel(rank: int) -> dict[str, list[list[torch.Tensor]]]:
    """Gate gradients' means of both ranks, each with half of the rows, and of one process with all of them."""
    found: dict[str, list[list[torch.Tensor]]] = {}
    for name, make, shape, layers in (
        ("weights", lambda: attentions(7), (6, 4, 7), ["query", "key"]),
        ("neurons", lambda: nn.Sequential(OrderedDict(fc1=nn.Linear(5, 9), fc2=nn.Linear(9, 2))), (6, 5), ["neurons"]),
    ):
        torch.manual_seed(0)
        model = make()
        parallel = DistributedDataParallel(copy.deepcopy(model))
        for one in (model, parallel):
            search = TicketSearch(one, WormConfig(score="fisher", layers=layers))
            for step in range(3):
                one.zero_grad()
                inputs = torch.randn(shape, generator=torch.Generator().manual_seed(step))
                rows = torch.arange(6) if one is model else torch.arange(3 * rank, 3 * rank + 3)
                cross_entropy(one(inputs[rows]), rows % 2).backward()
                search.truncate_gradients()
            found.setdefault(name, []).append([search.score.of(layer) for layer in search.layers])
    return found


def skipped_steps(mesh: Any, rank: int) -> list[torch.Tensor]:
    """Means without the step in which the shard of one rank has an infinite gradient, and without the step at all."""
    found = []
    for skipped in (True, False):
        torch.manual_seed(0)
        model = attentions(7)
        fully_shard(model, mesh=mesh)
        search = TicketSearch(model, WormConfig(score="fisher"))
        for step in range(3):
            model.zero_grad()
            inputs = torch.randn(6, 4, 7, generator=torch.Generator().manual_seed(step))
            cross_entropy(model(inputs), torch.arange(6) % 2).backward()
            if step == 1 and not skipped:
                continue
            if step == 1 and rank == 1:
                local(model[0].key.weight.grad)[0, 0] = torch.inf
            search.truncate_gradients()
        found.append(torch.stack([full(search.score.of(layer)) for layer in search.layers]))
    return found


def message(act: Callable[[], Any]) -> str:
    try:
        act()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def errors(mesh: Any, rank: int) -> dict[str, str]:
    found = {}
    for scope in ("layer", "global"):
        model = attentions(7)
        fully_shard(model, mesh=mesh)
        if rank == 1:
            local(model[1].key.weight)[0, 0] = torch.nan
        found[f"nan, {scope}"] = message(TicketSearch(model, WormConfig(scope=scope)).observe)

    for step, settings in (("observe", {}), ("draw", {}), ("truncate_gradients", {"truncate_from": "start"})):
        model = attentions(7)
        search = TicketSearch(model, WormConfig(**settings))
        if step == "draw":
            search.observe()
        fully_shard(model, mesh=mesh)
        found[f"made before, {step}"] = message(getattr(search, step))

    model = attentions(7)
    fully_shard(model, mesh=mesh)
    found["a part"] = message(
        lambda: RepresentativeLayer("0.query.weight", (View(model[0].query.weight, lambda tensor: tensor[:2]),))
    )
    for parameter in model[0].query.parameters():
        parameter.requires_grad_(False)
    found["frozen"] = message(lambda: TicketSearch(model, WormConfig()))
    other = Ticket({"0.query.weight": torch.ones(7, 7, dtype=torch.bool)}, WormConfig())
    found["another ticket"] = message(lambda: other.apply_(model))
    flat = nn.Sequential(FullyShardedDataParallel(attentions(7), device_id=torch.device("cpu"), use_orig_params=True))
    found["FSDP1"] = message(lambda: TicketSearch(flat, WormConfig()))
    return found


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank, mesh = distributed.get_rank(), init_device_mesh("cpu", (distributed.get_world_size(),))
    torch.manual_seed(0)
    found: dict[str, Any] = {name: run(case, mesh) for name, case in CASES.items()}
    found["gathered at once"] = gathered_at_once(mesh)
    found["errors"] = errors(mesh, rank)
    found["in parallel"] = gathered_in_parallel(rank)
    found["skipped"] = skipped_steps(mesh, rank)
    torch.save(found, Path(sys.argv[1], f"rank{rank}.pt"))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
