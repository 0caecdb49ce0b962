"""Search: when else was the Pacific as it was in the two years from March 1997 on?

The recording is the monthly temperature of the sea off Peru, 1950 to 2010, less what is usual in
each month. Its overlapping windows, one for each month to begin in, are embedded to unit length and
kept in a vector store: an index of hnswlib, or a table of PostgreSQL with pgvector. The query is
the window of a known El Nino; what comes nearest should be others. The store only approximates: its
answer is compared with an exact scan.

    make serve                                # in one terminal
    .venv/bin/pip install -e '.[examples]'    # in another
    .venv/bin/python examples/search.py [URL]
    .venv/bin/python examples/search.py [URL] --postgres postgresql://localhost/mine
"""

import argparse

import hnswlib
import numpy as np
import numpy.typing as npt
import psycopg
from pgvector.psycopg import register_vector
from statsmodels.datasets import elnino

from tritserve import Client

Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

FIRST_YEAR = 1950
MONTHS = 24
QUERY = (1997 - FIRST_YEAR) * 12 + 2
NEAREST = 100
# How many candidates a search keeps: more find more of the truly nearest, and take longer.
CANDIDATES = 200


def recording() -> Array:
    """The temperature's difference from what is usual in its month, in degrees: `[months]`."""
    years = elnino.load_pandas().data.drop(columns="YEAR").to_numpy(np.float32)
    anomalies: Array = (years - years.mean(axis=0)).ravel()
    return anomalies


def by_hnswlib(embeddings: Array, query: Array) -> Ids:
    """The ids of the nearest, best first."""
    index = hnswlib.Index(space="cosine", dim=embeddings.shape[1])
    index.init_index(max_elements=len(embeddings), ef_construction=CANDIDATES)
    index.add_items(embeddings, np.arange(len(embeddings)))
    index.set_ef(CANDIDATES)
    nearest, _ = index.knn_query(query, k=NEAREST)
    found: Ids = nearest[0].astype(np.int64)
    return found


def by_postgres(address: str, embeddings: Array, query: Array) -> Ids:
    """As `by_hnswlib`, in a table that is gone when the connection ends."""
    with psycopg.connect(address) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        connection.execute(
            f"CREATE TEMPORARY TABLE windows (id int, embedding vector({embeddings.shape[1]}))"
        )
        with connection.cursor().copy("COPY windows FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "vector"])
            for row in enumerate(embeddings):
                copy.write_row(row)
        connection.execute("CREATE INDEX ON windows USING hnsw (embedding vector_cosine_ops)")
        connection.execute(f"SET hnsw.ef_search = {CANDIDATES}")
        # So few rows would else be scanned, which is exact.
        connection.execute("SET enable_seqscan = off")
        rows = connection.execute(
            "SELECT id FROM windows ORDER BY embedding <=> %s LIMIT %s", (query, NEAREST)
        )
        return np.array([number for (number,) in rows])


def apart(ids: Ids) -> list[int]:
    """Those that share no month with the query or with a better one."""
    kept = [QUERY]
    for candidate in ids:
        if all(abs(candidate - other) >= MONTHS for other in kept):
            kept.append(int(candidate))
    return kept[1:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--postgres", metavar="ADDRESS")
    options = parser.parse_args()
    windows = np.lib.stride_tricks.sliding_window_view(recording(), MONTHS)[..., None]
    with Client(options.url) as client:
        embeddings = client.embed(windows, normalize=True)  # [windows, output_size]
    query = embeddings[QUERY]
    if options.postgres:
        found = by_postgres(options.postgres, embeddings, query)
    else:
        found = by_hnswlib(embeddings, query)
    cosines = embeddings @ query
    exact = np.argsort(-cosines)[:NEAREST]
    print(f"{len(windows)} windows of {MONTHS} months; most like the one from 1997-03 on:")
    for start in apart(found)[:5]:
        print(f"{FIRST_YEAR + start // 12}-{start % 12 + 1:02}  cosine {cosines[start]:.3f}")
    same = len(np.intersect1d(found, exact))
    print(f"{same} of the {NEAREST} nearest are those of an exact scan")


if __name__ == "__main__":
    main()
