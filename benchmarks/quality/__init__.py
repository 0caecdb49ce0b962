"""How good the embeddings are: every row of the table on every set, and the page made of them.

python -m benchmarks.quality --data FOLDER --out docs/quality

`FOLDER` holds the sets as `.npz` of the form in `data/README.md`. Each result is appended to
`results.jsonl` as soon as it is there; a run taken up again does only what is missing, and several
may share the work. `--page` only makes the table and the pictures of what is there.
"""
