"""The environment of a command that a test starts."""

from __future__ import annotations

import os

LEFT_BY_RUNS = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def environment(**changes: str) -> dict[str, str]:
    """Return the variables of this process without those that earlier runs in it have set, such as a rank."""
    left = (*LEFT_BY_RUNS, "PL_GLOBAL_SEED")
    return {**{name: value for name, value in os.environ.items() if name not in left}, **changes}
