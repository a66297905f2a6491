"""Checks of the sizes in model configurations."""

from collections.abc import Sequence


def check_sizes(config: object, *names: str) -> None:
    """Raise ValueError for a field of `config` below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least 1.")


def check_pools(pools: Sequence[int]) -> None:
    """Raise ValueError for no pools, or a pool below 1."""
    if not pools or min(pools) < 1:
        raise ValueError(f"pools is {pools}; it must hold at least one number, each at least 1.")
