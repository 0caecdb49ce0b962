"""How good one frozen encoder is on every set: docs/universal-quality.md and what it is made of.

    python -m benchmarks.quality.archive OTHERS
    python -m benchmarks.quality.universal --data FOLDER --others OTHERS RUNS...

`RUNS` are folders of `tritserve pretrain`, finished, in any order: seeds of the recipe, seeds of
its float twin, and runs of other steps or another width. Each run's own recipe tells what it is.
`FOLDER` holds the sets as in `benchmarks.quality`, `OTHERS` sets that nothing was chosen by.
Results are appended as they come, and computed again only where the run or the data are others.
"""
