"""`python -m bench`: the command line where nothing can be installed."""

import sys

try:
    from bench.cli import main
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] in ("bench", "gram_core", "reports"):
        raise
    sys.exit(f"gram-bench: the library {error.name} is not installed; `pip install .` in the checkout brings it.")

if __name__ == "__main__":
    main()
