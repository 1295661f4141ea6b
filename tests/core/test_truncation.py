"""Truncation of gradients and of optimizer steps, against the formulas and against an optimizer left alone."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_worm.core.truncation import FADED, Scaled, StepTruncation, fade_factor, fading, scale_gradients, scale_tensor

R = 0.003
STEPS = 3000
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.05),
    "sgd with momentum": lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.01),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1),
}


@pytest.fixture(params=OPTIMIZERS)
def make_optimizer(request: pytest.FixtureRequest) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    return OPTIMIZERS[request.param]


class Operations(TorchDispatchMode):
    """Names of all tensor operations that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not name.startswith("_record_function"):  # the profiler's marks around a step
            self.names.append(name)
        return func(*args, **(kwargs or {}))


class Still(torch.optim.Optimizer):
    """Runs the hooks of `step` and does nothing itself."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        super().__init__(weights, {})

    def step(self, closure: None = None) -> None:
        pass


def some_masks() -> list[torch.Tensor]:
    return [torch.rand(4, 3) < 0.5, torch.rand(5) < 0.5]


def some_weights(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(4, 3, dtype=dtype)), nn.Parameter(torch.randn(5, dtype=dtype))]


def put_gradients(weights: list[nn.Parameter], noise: torch.Tensor) -> None:
    """Of a bowl around 0.5 with noise: no weight's gradient depends on another weight."""
    for weight, part in zip(weights, noise.split([weight.numel() for weight in weights]), strict=True):
        weight.grad = weight.detach() - 0.5 + part.view(weight.shape)


def step_on(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], noise: torch.Tensor) -> None:
    put_gradients(weights, noise)
    optimizer.step()


def step_by_the_rule(
    optimizer: torch.optim.Optimizer,
    weights: list[nn.Parameter],
    noise: torch.Tensor,
    masks: list[torch.Tensor],
    rule: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    """The optimizer's step; of the weights that the masks prune, what a rule makes of before and after."""
    before = [weight.detach().clone() for weight in weights]
    step_on(optimizer, weights, noise)
    with torch.no_grad():
        for weight, old, mask in zip(weights, before, masks, strict=True):
            weight.copy_(torch.where(mask, weight, rule(old, weight)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("truncation", [0.0, R, 0.7, 1.0])
def test_scale_is_one_where_the_mask_keeps_and_r_where_it_prunes(truncation: float, dtype: torch.dtype) -> None:
    mask = torch.rand(4, 3) < 0.5
    scale = scale_tensor(mask, truncation, torch.empty(4, 3, dtype=dtype))
    expected = torch.where(mask, torch.tensor(1, dtype=dtype), torch.tensor(truncation, dtype=dtype))
    assert scale.dtype == dtype and torch.equal(scale, expected)


def test_scale_of_units_with_several_weights_broadcasts_over_them() -> None:
    mask = torch.tensor([True, False, True])
    gradient = torch.randn(3, 2, 4)
    expected = gradient.clone()
    expected[1] *= R
    scale = scale_tensor(mask, R, gradient)
    scale_gradients([gradient], [scale])
    assert torch.equal(gradient, expected)


def test_gradients_are_scaled_in_place_and_only_where_pruned() -> None:
    masks = some_masks()
    gradients = [torch.randn(mask.shape) for mask in masks]
    before = [gradient.clone() for gradient in gradients]
    scales = [scale_tensor(mask, R, gradient) for mask, gradient in zip(masks, gradients, strict=True)]
    scale_gradients(gradients, scales)
    for gradient, old, mask in zip(gradients, before, masks, strict=True):
        assert torch.equal(gradient[mask], old[mask])
        assert torch.equal(gradient[~mask], old[~mask] * R)


def test_gradients_that_are_views_of_larger_ones_are_scaled_where_they_are() -> None:
    fused = torch.randn(6, 4)
    before = fused.clone()
    mask = torch.tensor([[True, False, True, False], [False, True, True, False]])
    scale_gradients([fused[:2], fused.t()[1:3, 4:]], [scale_tensor(mask, R, fused[:2]), torch.zeros(2, 2)])
    expected = before.clone()
    expected[:2] *= torch.where(mask, 1.0, R)
    expected[4:, 1:3] = 0
    assert torch.equal(fused, expected)


def test_gradients_are_scaled_in_one_fused_operation() -> None:
    gradients = [torch.randn(4, 3), torch.randn(5)]
    scales = [torch.ones_like(gradient) for gradient in gradients]
    with Operations() as operations:
        scale_gradients(gradients, scales)
    assert operations.names == ["_foreach_mul_"]


def test_a_truncated_step_is_r_times_the_optimizers(make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    """w ← w_old + r · (w_new - w_old), weight decay and all, for as long as it is on."""
    weights, masks, noise = some_weights(), some_masks(), torch.randn(STEPS, 17, dtype=torch.float64)
    oracle = copy.deepcopy(weights)
    optimizer, plain = make_optimizer(weights), make_optimizer(oracle)
    scales = [scale_tensor(mask, R, weight) for mask, weight in zip(masks, weights, strict=True)]
    StepTruncation(optimizer, lambda: Scaled([weight.data for weight in weights], scales))
    start = [weight.detach().clone() for weight in weights]
    for gradients in noise:
        step_on(optimizer, weights, gradients)
        step_by_the_rule(plain, oracle, gradients, masks, lambda old, new: old + R * (new - old))
    for weight, expected, first in zip(weights, oracle, start, strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-9, atol=1e-12)
        assert (weight != first).all()  # truncated, not frozen


@pytest.mark.parametrize("truncation", [0.0, R, 0.5, 1.0])
def test_a_fading_step_is_a_truncated_one_and_a_multiplication(
    make_optimizer: Callable[..., torch.optim.Optimizer], truncation: float
) -> None:
    """w ← f · (w_old + r · (w_new - w_old)) where the mask prunes; where it keeps, exactly the optimizer's step."""
    weights, masks, noise = some_weights(), some_masks(), torch.randn(200, 17, dtype=torch.float64)
    oracle = copy.deepcopy(weights)
    optimizer, plain = make_optimizer(weights), make_optimizer(oracle)
    factor = fade_factor(100)
    scale, carried = fading(truncation, factor)
    scales = [scale_tensor(mask, scale, weight) for mask, weight in zip(masks, weights, strict=True)]
    StepTruncation(optimizer, lambda: Scaled([weight.data for weight in weights], scales, carried))
    for gradients in noise:
        step_on(optimizer, weights, gradients)
        step_by_the_rule(plain, oracle, gradients, masks, lambda old, new: factor * (old + truncation * (new - old)))
        for weight, expected, mask in zip(weights, oracle, masks, strict=True):
            assert torch.equal(weight[mask], expected[mask])
            torch.testing.assert_close(weight, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 7, 115, 2500.5])
def test_a_weight_that_nothing_else_moves_fades_to_one_hundredth(steps: float) -> None:
    weight = nn.Parameter(torch.tensor([1.0, -3.0, 2.0], dtype=torch.float64))
    optimizer = Still([weight])
    scale, carried = fading(R, fade_factor(steps))
    scales = [scale_tensor(torch.tensor([False, False, True]), scale, weight)]
    StepTruncation(optimizer, lambda: Scaled([weight.data], scales, carried))
    for _ in range(round(steps)):
        optimizer.step()
    torch.testing.assert_close(
        weight[:2] / torch.tensor([1.0, -3.0]), torch.full((2,), FADED).double(), rtol=2e-3, atol=0
    )
    assert weight[2] == 2


def test_kept_weights_take_exactly_the_plain_step(make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    weights, masks, noise = some_weights(torch.float32), some_masks(), torch.randn(500, 17)
    twin = copy.deepcopy(weights)
    optimizer, plain = make_optimizer(weights), make_optimizer(twin)
    scales = [scale_tensor(mask, R, weight) for mask, weight in zip(masks, weights, strict=True)]
    StepTruncation(optimizer, lambda: Scaled([weight.data for weight in weights], scales))
    for gradients in noise:
        step_on(optimizer, weights, gradients)
        step_on(plain, twin, gradients)
    for weight, other, mask in zip(weights, twin, masks, strict=True):
        assert torch.equal(weight[mask], other[mask])
        assert (weight[~mask] != other[~mask]).all()


@pytest.mark.parametrize("target", ["gradient", "update"])
def test_only_a_scaled_update_scales_decoupled_weight_decay(target: str) -> None:
    weights, masks = [nn.Parameter(torch.ones(6, dtype=torch.float64))], [torch.arange(6) < 3]
    optimizer = torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1)
    scales = [scale_tensor(masks[0], R, weights[0])]
    weights[0].grad = torch.zeros(6, dtype=torch.float64)
    if target == "update":
        StepTruncation(optimizer, lambda: Scaled([weights[0].data], scales))
    else:
        scale_gradients([weights[0].grad], scales)
    optimizer.step()
    moved = 1 - weights[0].detach()
    torch.testing.assert_close(moved[masks[0]], torch.full((3,), 1e-3, dtype=torch.float64))
    torch.testing.assert_close(
        moved[~masks[0]], torch.full((3,), 1e-3 * (R if target == "update" else 1), dtype=torch.float64)
    )


def test_a_scaled_gradient_wears_off_in_adamw_as_the_design_says() -> None:
    """Truncated over plain update after k steps: r / sqrt(β₂ᵏ + (1 - β₂ᵏ) r²)."""
    checkpoints, beta2 = (100, 1000, 2000, 12000), 0.999
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, betas=(0.9, beta2), weight_decay=0)
    gradient = torch.ones_like(weight)
    scale = scale_tensor(torch.tensor([True, False]), R, weight)
    weight.grad = gradient.clone()
    for _ in range(12000):  # until Adam's running averages stand still
        optimizer.step()
    measured = {}
    for k in range(1, max(checkpoints) + 1):
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        scale_gradients([weight.grad], [scale])
        optimizer.step()
        kept, truncated = (before - weight.detach()).tolist()
        measured[k] = truncated / kept
    for k in checkpoints:
        assert measured[k] == pytest.approx(R / (beta2**k + (1 - beta2**k) * R**2) ** 0.5, rel=0.015)
    # The figures of the documentation.
    for k, figure in {100: 0.0033, 1000: 0.0058, 2000: 0.01, 12000: 0.8}.items():
        assert measured[k] == pytest.approx(figure, rel=0.2)


def test_r_of_one_and_r_of_zero(make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    weights = some_weights(torch.float32)
    twin, start = copy.deepcopy(weights), copy.deepcopy(weights)
    optimizer, plain = make_optimizer(weights), make_optimizer(twin)
    scales = [torch.ones_like(weights[0]), torch.zeros_like(weights[1])]
    StepTruncation(optimizer, lambda: Scaled([weight.data for weight in weights], scales))
    for _ in range(20):
        noise = torch.randn(17)
        step_on(optimizer, weights, noise)
        step_on(plain, twin, noise)
    assert torch.equal(weights[0], twin[0])
    assert torch.equal(weights[1], start[1])


def test_steps_of_views_with_units_of_several_weights() -> None:
    """Rows of the middle third of a fused weight, as an entry for a fused projection would have them."""
    fused = nn.Parameter(torch.randn(6, 4))
    optimizer = torch.optim.SGD([fused], lr=1.0)
    mask = torch.tensor([True, False])
    StepTruncation(optimizer, lambda: Scaled([fused.data[2:4]], [scale_tensor(mask, 0.25, fused.data[2:4])]))
    before = fused.detach().clone()
    fused.grad = torch.randn(6, 4)
    optimizer.step()
    expected = before - fused.grad
    expected[3] = before[3] + 0.25 * (expected[3] - before[3])
    torch.testing.assert_close(fused.detach(), expected)


def test_nothing_truncated_is_nothing_touched_and_it_may_begin_and_end_later() -> None:
    weights, masks = some_weights(), some_masks()
    optimizer = torch.optim.SGD(weights, lr=1.0)
    scales = [scale_tensor(mask, R, weight) for mask, weight in zip(masks, weights, strict=True)]
    on = False
    StepTruncation(optimizer, lambda: Scaled([weight.data for weight in weights], scales) if on else Scaled())
    for on in (False, True, False, True):
        before = [weight.detach().clone() for weight in weights]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        for weight, old, mask in zip(weights, before, masks, strict=True):
            step = torch.where(mask, 1.0, R if on else 1.0).double()
            torch.testing.assert_close(old - weight.detach(), step)


def test_a_step_allocates_nothing_and_rebuilds_nothing() -> None:
    weights = some_weights()
    optimizer = Still(weights)
    scales = [torch.full_like(weight, R).detach() for weight in weights]
    views = [weight.data for weight in weights]
    StepTruncation(optimizer, lambda: Scaled(views, scales))
    optimizer.step()  # the first may
    with Operations() as operations:
        optimizer.step()
    assert operations.names == ["mul", "mul", "lerp", "lerp"]  # into the weights: nothing copies them there


def test_remove_ends_it() -> None:
    weights, masks = some_weights(), some_masks()
    optimizer = torch.optim.SGD(weights, lr=1.0)
    scales = [scale_tensor(mask, 0.0, weight) for mask, weight in zip(masks, weights, strict=True)]
    truncation = StepTruncation(optimizer, lambda: Scaled([weight.data for weight in weights], scales))
    put_gradients(weights, torch.randn(17, dtype=torch.float64))
    optimizer.step()
    truncation.remove()
    before = [weight.detach().clone() for weight in weights]
    optimizer.step()
    for weight, old in zip(weights, before, strict=True):
        assert torch.equal(weight.detach(), old - weight.grad)
    truncation.remove()  # once more does no harm


class Derived(torch.optim.SGD):
    """Calls its base class's `step`, around which the same hooks are called; and does something itself."""

    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():
            for weight in self.param_groups[0]["params"]:
                weight.add_(1.0)
        return super().step(closure)


class Further(Derived):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def check_truncated_once(
    optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], masks: list[torch.Tensor]
) -> None:
    """Of a [`Derived`] with a learning rate of ½, r = 0.1: its own step of 1, less ½ by a gradient of 1."""
    before = [weight.detach().clone() for weight in weights]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    for weight, old, mask in zip(weights, before, masks, strict=True):
        torch.testing.assert_close(weight.detach() - old, torch.where(mask, 0.5, 0.05).double())


@pytest.mark.parametrize("kind", [Derived, Further])
def test_a_step_that_calls_its_base_class_s_is_truncated_once(kind: type[torch.optim.Optimizer]) -> None:
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)  # from the first of its class on, its `step` calls hooks
    weights, masks = some_weights(), some_masks()
    optimizer = kind(weights, lr=0.5)
    scales = [scale_tensor(mask, 0.1, weight) for mask, weight in zip(masks, weights, strict=True)]
    StepTruncation(optimizer, lambda: Scaled([weight.data for weight in weights], scales))
    for _ in range(2):
        check_truncated_once(optimizer, weights, masks)


def test_a_step_that_failed_is_forgotten() -> None:
    weights, masks = some_weights(), some_masks()
    optimizer = Further(weights, lr=0.5)
    scales = [scale_tensor(mask, 0.1, weight) for mask, weight in zip(masks, weights, strict=True)]
    StepTruncation(optimizer, lambda: Scaled([weight.data for weight in weights], scales))

    def fails() -> float:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(fails)
    check_truncated_once(optimizer, weights, masks)


class Lookahead(torch.optim.Optimizer):
    """As timm's: it has what the base optimizer has, and leaves `Optimizer.__init__` out."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self._optimizer_step_pre_hooks: Any = OrderedDict()
        self._optimizer_step_post_hooks: Any = OrderedDict()
        self.base, self.param_groups, self.state, self.defaults = base, base.param_groups, base.state, base.defaults

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)


def test_hooks_are_called_where_torch_has_not_seen_to_it() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=0.5))
    scale = torch.tensor([1.0, 0.0])
    StepTruncation(optimizer, lambda: Scaled([weight.data], [scale]))
    weight.grad = torch.ones(2)
    optimizer.step()
    assert weight.tolist() == [0.5, 1.0]


def test_what_has_no_hooks_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`SimpleNamespace` is no `torch.optim.Optimizer`, and its step has no hooks"):
        StepTruncation(SimpleNamespace(step=lambda: None), Scaled)  # type: ignore[arg-type]


@pytest.mark.parametrize("overflowed", [False, True])
def test_a_fused_step_that_overflowed_fades_nothing(overflowed: bool) -> None:
    """The `GradScaler` calls a fused optimizer, which looks at `found_inf` and does nothing."""
    weight = nn.Parameter(torch.tensor([2.0, 4.0]))
    optimizer = torch.optim.AdamW([weight], lr=0.5, fused=True)
    scale, carried = fading(0.0, 0.5)
    StepTruncation(optimizer, lambda: Scaled([weight.data], [torch.tensor([1.0, scale])], carried))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(weight.sum() * (torch.inf if overflowed else 1.0)).backward()
    scaler.step(optimizer)
    assert (weight.tolist() == [2.0, 4.0]) == overflowed
    assert weight[1].item() == (4.0 if overflowed else 2.0)
