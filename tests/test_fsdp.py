"""Two processes with gloo and FSDP2: the search, the ticket and the weights of the model in one piece."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from search_under_fsdp import CASES, EPOCHS, HELD_STEPS

from hf_worm.core.masks import keep_mask

SCRIPT = Path(__file__).with_name("search_under_fsdp.py")
pytestmark = pytest.mark.skipif(
    torch.__version__ < "2.9",
    reason="on CPUs, FSDP2 does not train in torch 2.6, and sums gradients in 2.7 and 2.8 that it should average",
)
TARGETS = {name: case.settings.get("truncation_target", "gradient") for name, case in CASES.items()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What happened in each process: one start for all tests."""
    folder = tmp_path_factory.mktemp("fsdp")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", SCRIPT, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(
    params=[(name, rank) for name in CASES for rank in range(2)], ids=lambda param: f"{param[0]}, {param[1]}"
)
def name_and_found(request: pytest.FixtureRequest, ranks: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    name, rank = request.param
    return name, ranks[rank][name]


@pytest.fixture
def found(name_and_found: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Of one case in one process."""
    return name_and_found[1]


def same(one: Any, other: Any) -> bool:
    """Equal to the bit, tensors inside of dictionaries and lists too."""
    if isinstance(one, torch.Tensor):
        return type(one) is type(other) is torch.Tensor and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def owned(ticket: dict[str, torch.Tensor], layers: list[str] | None) -> dict[str, torch.Tensor]:
    """Masks of all parameters that a ticket prunes: a BatchNorm's shift with its scale."""
    if layers == ["batchnorm"]:
        return ticket | {name.removesuffix("weight") + "bias": mask for name, mask in ticket.items()}
    return ticket


def test_each_observation_is_that_of_the_model_in_one_piece(found: dict[str, Any]) -> None:
    whole, sharded = found["whole"], found["sharded"]
    assert sharded["names"] == whole["names"]
    assert same(sharded["masks"], whole["masks"]) and len(whole["masks"]) == EPOCHS
    assert all(mask.dtype == torch.bool for masks in sharded["masks"] for mask in masks.values())
    assert sharded["history"] == whole["history"]
    assert sharded["sparsity"] == whole["sparsity"]
    assert same(sharded["state"], whole["state"])


def test_all_ranks_find_the_same(ranks: list[dict[str, Any]]) -> None:
    for name in CASES:
        for found in ("masks", "history", "state", "ticket", "trained", "drawn"):
            assert same(ranks[0][name]["sharded"][found], ranks[1][name]["sharded"][found])


def test_the_cases_show_something(ranks: list[dict[str, Any]]) -> None:
    """Masks move, truncation begins early and late, searches converge or don't, shards are uneven or empty."""
    histories = {name: ranks[0][name]["whole"]["history"] for name in CASES}
    assert all(any(seen.distances and seen.max_distance > 0 for seen in history) for history in histories.values())
    histories = {name: history for name, history in histories.items() if name != "attention, cubic"}
    begins = {name: [seen.truncating for seen in history].index(True) for name, history in histories.items()}
    assert {0, 1, 2} <= set(begins.values())
    assert {seen.converged for history in histories.values() for seen in history[2:]} == {True, False}
    for case, parameter, shapes in (
        ("attention", "0.query.weight", [(4, 7), (3, 7)]),
        ("attention, by columns", "0.query.weight", [(8, 4), (8, 4)]),
        ("cnn", "1.1.bias", [(3,), (2,)]),
        ("cnn", "2.1.weight", [(1,), (0,)]),
        ("cnn, one shift whole", "0.1.weight", [(5,), (4,)]),
    ):
        assert [found[case]["shards"][parameter] for found in ranks] == shapes
    assert "1.query.weight" not in ranks[0]["attention, only one sharded"]["shards"]
    assert "0.1.bias" not in ranks[0]["cnn, one shift whole"]["shards"]


def test_thresholds_of_the_shards_alone_would_give_other_masks(ranks: list[dict[str, Any]]) -> None:
    found = ranks[0]["attention"]["sharded"]
    mask, weight = found["masks"][-1]["0.query.weight"], found["trained"]["0.query.weight"]
    assert torch.equal(mask, keep_mask(weight, 0.5))
    assert not torch.equal(mask, torch.cat([keep_mask(weight[:4], 0.5), keep_mask(weight[4:], 0.5)]))


def test_truncated_gradients_and_trained_weights_are_those_of_the_model_in_one_piece(found: dict[str, Any]) -> None:
    for what in ("gradients", "trained"):
        torch.testing.assert_close(found["sharded"][what], found["whole"][what], rtol=1e-5, atol=1e-7)
    assert found["whole"]["history"][-1].truncating or found["whole"]["history"][-1].converged


def test_a_step_communicates_nothing_and_allocates_nothing(name_and_found: tuple[str, dict[str, Any]]) -> None:
    name, found = name_and_found
    if "score" in CASES[name].settings:  # which is told from the masks by what is read back
        assert found["sharded"]["truncation"][-1] == "_foreach_mul_"
        assert not {"_local_scalar_dense", "_allgather_base_", "all_gather_into_tensor"} & set(
            found["sharded"]["truncation"]
        )
    elif "schedule" in CASES[name].settings:
        assert found["sharded"]["truncation"] == []
    elif TARGETS[name] == "gradient":
        assert found["sharded"]["truncation"] == ["_foreach_mul_"]
    else:
        assert found["sharded"]["truncation"] == []
        in_place = [operation for operation in found["sharded"]["step"] if operation in ("mul", "lerp")]
        assert in_place == sorted(in_place, reverse=True) and set(in_place) == {
            "mul",
            "lerp",
        }  # all of one, then the other
        views = {"detach", "view", "_record_function_enter_new", "_record_function_exit"}  # of no memory
        assert set(found["sharded"]["step"]) - set(in_place) <= views


def test_the_draw_makes_exact_zeros_and_touches_nothing_else(name_and_found: tuple[str, dict[str, Any]]) -> None:
    name, found = name_and_found
    sharded = found["sharded"]
    assert same(sharded["ticket"], found["whole"]["ticket"])
    masks = owned(sharded["ticket"], CASES[name].settings.get("layers"))
    for parameter, weight in sharded["drawn"].items():
        before = sharded["trained"][parameter]
        assert torch.equal(weight, torch.where(masks[parameter], before, 0) if parameter in masks else before)
    assert any(not mask.all() for mask in masks.values())


def test_the_next_forward_pass_sees_the_draw(found: dict[str, Any]) -> None:
    """An evaluation before it left gathered parameters that do not know of it."""
    torch.testing.assert_close(found["sharded"]["drawn outputs"], found["whole"]["drawn outputs"])


def test_held_weights_stay_exactly_zero_and_the_others_train(name_and_found: tuple[str, dict[str, Any]]) -> None:
    name, found = name_and_found
    masks = owned(found["sharded"]["ticket"], CASES[name].settings.get("layers"))
    assert len(found["sharded"]["held"]) == HELD_STEPS
    for weights in found["sharded"]["held"]:
        assert all((weights[parameter][~mask] == 0).all() for parameter, mask in masks.items())
        assert any(not torch.equal(weights[parameter], found["sharded"]["drawn"][parameter]) for parameter in masks)
    torch.testing.assert_close(found["sharded"]["held"], found["whole"]["held"], rtol=1e-5, atol=1e-7)


def test_a_state_goes_from_shards_to_one_piece_and_back(found: dict[str, Any]) -> None:
    """Each goes on from the other's."""
    whole, sharded = found["whole resumed"], found["sharded resumed"]
    assert same(whole["masks"], found["whole"]["masks"][-1]) and same(sharded["masks"], whole["masks"])
    assert sharded["seen"] == whole["seen"] and whole["seen"].index == EPOCHS
    assert same(sharded["state"], whole["state"])
    torch.testing.assert_close(sharded["gradients"], whole["gradients"], rtol=1e-5, atol=1e-7)


def test_a_ticket_applies_to_a_sharded_model_after_an_evaluation(name_and_found: tuple[str, dict[str, Any]]) -> None:
    name, found = name_and_found
    whole, sharded = found["applied"]
    assert same(sharded, whole)
    masks = owned(found["whole"]["ticket"], CASES[name].settings.get("layers"))
    assert all((sharded[parameter][~mask] == 0).all() for parameter, mask in masks.items())
    torch.testing.assert_close(*found["outputs applied"])


def test_only_one_layer_is_whole_at_any_time(ranks: list[dict[str, Any]]) -> None:
    """Four layers by `scope="layer"`, four by `"global"`."""
    assert all(found["gathered at once"] == [0] * 8 for found in ranks)


@pytest.mark.parametrize("kind", ["weights", "neurons"])
def test_gate_gradients_of_two_ranks_are_those_of_one(ranks: list[dict[str, Any]], kind: str) -> None:
    (whole, first), (_, second) = (found["in parallel"][kind] for found in ranks)
    assert same(first, second)
    for one, other in zip(whole, first, strict=True):
        assert (one - other).abs().max() < 1e-5 * one.abs().max() and one.any()


def test_a_step_that_is_not_finite_on_one_rank_enters_on_none(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        skipped, without = found["skipped"]
        assert torch.equal(skipped, without) and skipped.any()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan, layer", "ValueError: `1.key.weight` holds NaN or infinite weights (1 of 4 layers do)"),
        ("nan, global", "ValueError: `1.key.weight` holds NaN or infinite weights (1 of 4 layers do)"),
        ("made before, observe", "RuntimeError: `0.query.weight`, `0.key.weight`, `1.query.weight` and 1 more"),
        ("made before, draw", "RuntimeError: `0.query.weight`, `0.key.weight`, `1.query.weight` and 1 more"),
        ("made before, truncate_gradients", "RuntimeError: `0.query.weight`, `0.key.weight`, `1.query.weight` and"),
        ("a part", "ValueError: `0.query.weight` has units that own a part of a parameter of shape (7, 7)"),
        ("frozen", "ValueError: 1 of 4 representative layers are frozen (`requires_grad=False`): `0.query.weight`"),
        ("another ticket", "ValueError: The representative layers of `FSDPSequential` are not those of the ticket"),
        ("FSDP1", "ValueError: `0` is under `FullyShardedDataParallel` (FSDP1)"),
    ],
)
def test_every_rank_raises_the_same_error(ranks: list[dict[str, Any]], what: str, message: str) -> None:
    first, second = (found["errors"][what] for found in ranks)
    assert first == second and first.startswith(message)
