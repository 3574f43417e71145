"""`python -m tests.bench._manage RUN_DIR METHOD...`: measures `CASE` in two processes each and says what happens.

A manager for tests to kill: its configuration is the run directory's own. One line per event.
"""

import sys
from pathlib import Path

from bench.configuration.config import Config
from bench.results import store
from bench.running import manager
from tests.bench._small_runs import item


def main(run_dir: Path, *methods: str) -> None:
    config = Config.model_validate(store.read_info(run_dir).config)
    items = [item(method, world_size=2) for method in methods]
    manager.run(config, run_dir, items, lambda event: print(event, flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
