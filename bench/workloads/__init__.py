"""What is trained on: items, texts or pictures, and batches; a workload is a file of this package.

Each file defines, and may be imported without torch,

    Settings                                the pydantic model of its table `[workload.NAME]`
    ASSETS: tuple[str, ...]                 names in bench.inputs.assets that `build` reads
    TAKES_REPETITION_RATIO: bool            whether it realises an asked-for item_repetition_ratio or has its own
    HOLDS_OUT: bool                         whether it can hold data out, for `gram-bench train` to judge by
    PICTURES: bool                          optional: whether its items are pictures, for encoders that read them
    check(settings, axes)                   raises ValueError for a case that it cannot be; instant
    contents(settings, argument) -> dict[str, Path | str]
                                            what it reads, by part: files, or a text that says what is drawn; a
                                            part that is not there yet is left out
    build(settings, request) -> Workload
    prepare(settings, *, argument, task, say) -> Mapping[str, Any] | None
                                            optional: has in the cache what `build` would take long to make, and says
                                            what reading it left out (`bench.results.analysis.left_out`); `say`
                                            is given one sentence where it is not there yet

A case names it by its file's name, or as `scheme:argument` where it makes several (`shape:toeic`).
"""
