"""What `gram-bench list` prints: everything that a configuration can name, one line each."""

from rich.console import Console
from rich.table import Table

from bench import registry
from bench.configuration import checks, config
from bench.configuration.method_settings import method_names
from bench.encoders.shape import SHAPES


def entries() -> dict[str, dict[str, str]]:
    """Kind -> name -> what it is; nothing is imported for it."""
    packages = {
        "engines": checks.ENGINES,
        "encoders": checks.ENCODERS,
        "CF modules": checks.CF_MODULES,
        "workloads": checks.WORKLOADS,
        "metrics": checks.METRICS,
    }
    found = {"methods": {name: registry.summary(package, name) for name, package in method_names().items()}}
    for kind, package in packages.items():
        found[kind] = {name: registry.summary(package, name) for name in registry.names(package)}
    found["shapes"] = {name: f"{shape.source}, pooled by {shape.pooling}" for name, shape in SHAPES.items()}
    return {**found, "presets": config.presets()}


def print_entries(console: Console) -> None:
    """Prints every kind as a table."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for kind, named in entries().items():
        for number, (name, summary) in enumerate(named.items()):
            table.add_row("" if number else kind, name, summary)
        table.add_section()
    console.print(table)
