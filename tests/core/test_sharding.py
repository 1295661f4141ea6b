"""Tensors in one piece are left as they are; tests/test_fsdp.py has the sharded ones."""

import subprocess
import sys
import textwrap
from pathlib import Path

import torch
from torch import nn

from hf_worm.core.sharding import full, is_sharded, local, shard_like

PACKAGE = Path(__file__).parents[2] / "hf_worm"


def test_a_tensor_in_one_piece_is_itself() -> None:
    for tensor in (torch.randn(3, 2), nn.Parameter(torch.randn(3, 2))):
        assert not is_sharded(tensor)
        assert full(tensor) is tensor and local(tensor) is tensor
        mask = torch.ones(3, 1, dtype=torch.bool)
        assert shard_like(mask, tensor) is mask


def test_a_search_runs_where_torch_has_no_distributed() -> None:
    """The package's own `__init__`, which needs transformers, is left out."""
    program = f"""
        import sys, types
        import torch
        torch.distributed.is_available = lambda: False
        sys.modules["torch.distributed.tensor"] = sys.modules["torch.distributed.fsdp"] = None
        package = types.ModuleType("hf_worm")
        package.__path__ = [{str(PACKAGE)!r}]
        sys.modules["hf_worm"] = package

        from torch import nn
        from hf_worm.config import WormConfig
        from hf_worm.search import TicketSearch

        model = nn.ModuleDict(dict(query=nn.Linear(4, 4), key=nn.Linear(4, 4)))
        search = TicketSearch(model, WormConfig(window=2))
        search.observe()
        assert search.observe().converged
        print(search.draw().apply_(model) is model)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
