"""`python -m tests.bench._manage RUN_DIR [LIMIT | RANKS] METHOD...`: measures `CASE` and says what happens.

A manager for tests to interrupt, kill or starve: its configuration is the run directory's own. One line per event.
"""

import resource
import sys
from pathlib import Path

from bench.configuration.config import Config
from bench.errors import BenchError
from bench.results import store
from bench.running import manager
from tests.bench._small_runs import item


def main(run_dir: Path, ranks: int, *methods: str) -> int:
    """Ends as the command line does: 130 on Ctrl-C, 1 with one sentence on a failure of the harness."""
    config = Config.model_validate(store.read_info(run_dir).config)
    try:
        manager.run(
            config,
            run_dir,
            [item(method, world_size=ranks) for method in methods],
            lambda event: print(event, flush=True),
        )
    except KeyboardInterrupt:
        return 130
    except BenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    directory, *rest = sys.argv[1:]
    ranks = int(rest.pop(0)) if rest[0] in ("2", "3", "4") else 1
    if rest[0].isdigit():  # the largest file that this process may write, in bytes: a disk that is full beyond
        limit = int(rest.pop(0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(main(Path(directory), ranks, *rest))
