"""`python -m bench`: the command line where nothing can be installed."""

from bench.cli import main

if __name__ == "__main__":
    main()
