"""One random run from one seed, and what to print when it fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.sim import faults
from tests.sim.cluster import Cluster
from tests.sim.world import World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.sim.faults import Planned


@dataclass
class Outcome:
    seed: int
    trace_hash: str = ""
    events: int = 0
    simulated_s: float = 0.0
    entries: int = 0
    answers: int = 0
    failure: str = ""
    faults: list[Planned] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)

    def report(self) -> str:
        """Everything that is needed to look into a failure."""
        schedule = "\n".join(f"  {fault}" for fault in self.faults)
        return (
            f"seed {self.seed}: {self.failure}\nafter {self.simulated_s:.3f} simulated seconds; faults:\n{schedule}\n"
            f"again, with all messages: python -m tests.sim --seed {self.seed} -v"
        )


def run_seed(seed: int, *, verbose: bool = False, only: Sequence[str] = (), **classes: Any) -> Outcome:
    """`only`: faults of these kinds. `classes`: node_class, machine_class, journal_class, for broken nodes."""
    world = World(seed, verbose)
    rng = world.rng("plan")
    outcome = Outcome(seed)
    voters = rng.choice((1, 3, 3, 3, 3, 3, 5, 5))
    cluster = Cluster(world, voters, 2 if voters == 1 else rng.choice((0, 0, 1, 2)), **classes)
    duration = rng.uniform(3.0, 9.0)
    outcome.faults = faults.plan(rng, duration, only)
    cluster.network.weather = faults.weather(rng)
    cluster.client_loss = rng.choice((0.0, 0.02, 0.1))
    pause_s = rng.choice((0.05, 0.1, 0.3))
    for fault in outcome.faults:
        world.after(fault.at, lambda fault=fault: faults.begin(cluster, fault))  # type: ignore[misc]
    try:
        cluster.start()
        for _ in range(rng.randint(1, 4)):
            cluster.add_client(pause_s, rng.choice((2.0, 8.0)))
        world.run_until(duration)
        cluster.heal()
        cluster.settle()
    except Exception as error:
        outcome.failure = f"{type(error).__name__}: {error}"
        if verbose or not isinstance(error, AssertionError):
            error.add_note(outcome.report())
            if not verbose:
                raise
    outcome.trace_hash, outcome.events, outcome.simulated_s = world.trace_hash, world.events_done, world.now
    outcome.entries = len(cluster.laws.committed)
    outcome.answers = sum(call.answer is not None for client in cluster.clients for call in client.history)
    outcome.trace = world.lines
    return outcome
