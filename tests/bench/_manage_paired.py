"""`python -m tests.bench._manage_paired RUN_DIR`: a manager of paired blocks for tests to kill.

Its configuration and its plan are the run directory's own. One line per event: what happened and, of a turn, the
block and the round.
"""

import sys
from pathlib import Path

from bench.configuration import sweep
from bench.configuration.config import Config
from bench.results import store
from bench.running import manager
from bench.running.events import Event, TookTurn


def main(run_dir: Path) -> None:
    config = Config.model_validate(store.read_info(run_dir).config)
    manager.run(config, run_dir, sweep.plan(config), say)


def say(event: Event) -> None:
    turn = f" {event.item.block} {event.round}" if isinstance(event, TookTurn) else ""
    print(f"{type(event).__name__}{turn}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
