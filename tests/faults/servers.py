"""MLflow's server killed, absent, or told by nobody that a run has ended."""

from __future__ import annotations

from random import Random

from tests.faults.world import World


def mlflow_killed(world: World, chance: Random) -> str:
    return "todo"


def mlflow_absent(world: World, chance: Random) -> str:
    return "todo"


def left_running(world: World, chance: Random) -> str:
    return "todo"
