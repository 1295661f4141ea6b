"""Parameter names as the user knows them, and the patterns that stand for many of them."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import is_parametrized

Named = list[tuple[str, nn.Parameter]]

# Path components that torch.compile and activation checkpointing add; no module of a model's own is called that.
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module")
LISTED = 5  # names, close matches or candidates in one message


def named_parameters(model: nn.Module) -> Named:
    """Return `model.named_parameters()` without the prefixes that wrappers add, in the same order.

    A shared parameter comes once under each of its names, so that all of them can be looked for; the first is the one
    that `model.named_parameters()` gives.
    """
    # `module` is dropped only right below such a wrapper: a model's own child may be called that too.
    parallel = {
        path
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, DistributedDataParallel | nn.DataParallel)
    }

    def plain(name: str) -> str:
        parts = name.split(".")
        added = (
            part in WRAPPERS or (part == "module" and ".".join(parts[:place]) in parallel)
            for place, part in enumerate(parts)
        )
        return ".".join(part for part, extra in zip(parts, added, strict=True) if not extra)

    return [(plain(name), parameter) for name, parameter in model.named_parameters(remove_duplicate=False)]


def computed_parameters(model: nn.Module) -> list[str]:
    """List the weights and biases that are computed from others: parametrized, or under `torch.nn.utils.prune`."""
    found = []
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        for name in ("weight", "bias"):
            if is_parametrized(module, name) or f"{name}_orig" in own or f"{name}_g" in own:
                found.append(join(path, name))
    return found


def join(path: str, name: str) -> str:
    """Return the path of a module's child or parameter; the path of the model itself is empty."""
    return f"{path}.{name}" if path else name


def block_path(path: str, end: str) -> str | None:
    """Return the path that leads to `end`, with its last dot, if `path` ends in it as whole components."""
    block = path.removesuffix(end)
    return block if block != path and (not block or block.endswith(".")) else None


def in_attention(path: str) -> bool:
    """Say whether the path goes through a module that is called an attention."""
    return "attn" in path.lower() or "attention" in path.lower()


def pattern(name: str) -> str:
    """Return the name with each number of the path replaced by `*`: the same weight of every block."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def matches(name: str, entry: str) -> bool:
    """Say whether an entry of `layers`, a parameter's name or a shell-style pattern, means this name."""
    return name == entry or fnmatchcase(name, entry)


def first_names(names: Sequence[str], most: int = 3) -> str:
    """List the first names, each in backticks, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{name}`" for name in names[:most]) + more


def first_groups(chosen: Named, named: Named) -> str:
    """List the first entries of `layers` that mean the chosen parameters, and how many more there are."""
    return first_names(list(group(chosen, named)), LISTED)


def group(chosen: Named, named: Named) -> dict[str, list[nn.Parameter]]:
    """Group the chosen parameters by entries of `layers` that mean them and nothing else.

    Args:
        chosen (`list[tuple[str, nn.Parameter]]`): Some of `named`.
        named (`list[tuple[str, nn.Parameter]]`): All parameters of the model.

    Returns:
        `dict[str, list[nn.Parameter]]`: By pattern where the pattern matches no other parameter, else by name.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    names = {parameter: name for name, parameter in reversed(chosen)}
    for name, parameter in chosen:
        if name == names[parameter]:
            groups.setdefault(pattern(name), []).append(parameter)
    loose = [entry for entry, members in groups.items() if _matches_others(entry, members, named)]
    for entry in loose:
        del groups[entry]
        groups.update({name: [parameter] for name, parameter in chosen if pattern(name) == entry})
    return groups


def _matches_others(entry: str, members: Iterable[nn.Parameter], named: Named) -> bool:
    inside = set(members)
    return any(matches(name, entry) and parameter not in inside for name, parameter in named)
