"""Each seam of torch that has no promise is where it was, and does what it did."""

import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

from hf_worm.core import compat

PACKAGE = Path(compat.__file__).parents[1]


@pytest.mark.parametrize("factors", [[torch.tensor(2.0), torch.tensor([1.0, 0.5])], torch.tensor(3.0), 0.25])
def test_tensors_are_multiplied_in_place(factors: list[torch.Tensor] | torch.Tensor | float) -> None:
    tensors = [torch.ones(3), torch.full((2,), 4.0)]
    each = factors if isinstance(factors, list) else [factors, factors]
    expected = [tensor * factor for tensor, factor in zip(tensors, each, strict=True)]
    compat.multiply_(tensors, factors)
    assert all(torch.equal(tensor, other) for tensor, other in zip(tensors, expected, strict=True))


def test_norms_show_what_is_not_finite() -> None:
    tensors = [torch.tensor([3.0, 4.0]), torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf])]
    assert [bool(norm.isfinite()) for norm in compat.norms(tensors)] == [True, False, False]
    assert float(compat.norms(tensors)[0]) == 5.0


def test_a_step_calls_the_hooks_of_an_optimizer_that_was_not_initialized() -> None:
    class Wrapper(torch.optim.SGD):
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.__dict__.update(optimizer.__dict__)

    called = []
    inner = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    wrapper = Wrapper(inner)
    assert compat.has_step_hooks(wrapper) and not compat.has_step_hooks(object())
    compat.call_step_hooks(wrapper)
    wrapper.register_step_post_hook(lambda *_: called.append("after"))
    wrapper.register_step_pre_hook(lambda *_: called.append("before"))
    wrapper.step()
    assert called == ["before", "after"]


def test_there_is_a_test_for_each_function_and_no_seam_elsewhere() -> None:
    source = Path(__file__).read_text()
    own = [name for name, one in vars(compat).items() if inspect.isfunction(one)]
    assert len(own) == 4 and [name for name in own if f"compat.{name}(" not in source] == []
    others = [file for file in PACKAGE.rglob("*.py") if file != Path(compat.__file__)]
    private = ("torch._", "._patch_step_function", "_optimizer_step_pre_hooks")
    assert [file for file in others if any(name in file.read_text() for name in private)] == []
