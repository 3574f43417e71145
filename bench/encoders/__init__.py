"""Where content encoders come from: `scheme` or `scheme:argument`; a scheme is a file of this package.

Each file defines

    ASSETS: tuple[str, ...]                       names in bench.inputs.assets that `load` reads
    check(argument: str | None) -> None           raises ValueError; instant, without torch
    contents(argument) -> dict[str, list[Path] | str]
                                                  weights, configuration, tokenizer: the files of each, or a text that
                                                  says what it is; empty where nothing is there yet
    pooling(argument: str | None) -> PicturePooling | None
                                                  what its encodings are pooled by, None where loading it shows
    limits(argument: str | None) -> Limits        how long a text it takes, whether it has a tokenizer, what
                                                  pictures it reads in place of texts; instant
    load(argument, asked: Loading) -> LoadedEncoder

and ADAPTS, where `load` reads the `base` of adapters, `contents` takes it too, and what is loaded is the user's own: it
is loaded before anything is measured, which shows what it takes, so that it has no `limits`.
"""
