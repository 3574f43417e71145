"""Where content encoders come from: `scheme` or `scheme:argument`; a scheme is a file of this package.

Each file defines

    ASSETS: tuple[str, ...]                       names in bench.assets that `load` reads
    check(argument: str | None) -> None           raises ValueError; instant, without torch
    contents(argument) -> dict[str, list[Path] | str]
                                                  weights, configuration, tokenizer: the files of each, or a text that
                                                  says what it is; empty where nothing is there yet
    load(argument, *, layers, device, dtype, seed, dropout) -> LoadedEncoder
"""
