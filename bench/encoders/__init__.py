"""Where content encoders come from: `scheme` or `scheme:argument`; a scheme is a file of this package.

Each file defines

    ASSETS: tuple[str, ...]                       names in bench.assets that `load` reads
    check(argument: str | None) -> None           raises ValueError; instant, without torch
    pooling(argument: str | None) -> Pooling | None  what its encodings are pooled by, None where loading it shows
    load(argument, *, layers, device, dtype, seed, dropout) -> LoadedEncoder

and ADAPTS, where `load` takes the `base` of adapters too and what is loaded is the user's own.
"""
