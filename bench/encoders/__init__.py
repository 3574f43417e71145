"""Where content encoders come from: `scheme` or `scheme:argument`; a scheme is a file of this package.

Each file defines

    ASSETS: tuple[str, ...]                       names in bench.assets that `load` reads
    check(argument: str | None) -> None           raises ValueError; instant, without torch
    load(argument, *, layers, device, dtype, seed, dropout) -> LoadedEncoder
"""
