"""Whether all that ran said the same: labels equal, scores and vectors within 1e-4."""
import json
import pathlib
import re

import numpy as np
import pyarrow.parquet as pq

TOLERANCE = 1e-4


def compare(name, folders, records, objects):
    """Holds the results below each peer's folder against the first one's; prints a line for each."""
    every = {peer: load(name, folder, records // objects) for peer, folder in folders.items()}
    (first, wanted), *others = every.items()
    for peer, found in every.items():
        assert len(found) == records, f"{peer} on {name}: predictions for {len(found)} records of {records}"
    print(f"{name}: {first}: {records} predictions")
    for peer, found in others:
        assert found.keys() == wanted.keys(), f"{peer} on {name}: other records than {first}'s"
        labels = [key for key in wanted if wanted[key][0] != found[key][0]]
        distance = max(float(np.abs(wanted[key][1] - found[key][1]).max()) for key in wanted)
        assert not labels, f"{peer} on {name}: {len(labels)} labels are not {first}'s, such as that of {labels[0]}"
        assert distance <= TOLERANCE, f"{peer} on {name}: {distance} away from {first}"
        print(f"{name}: {peer}: the same, {distance:.1e} at most")


def load(name, folder, each):
    """{record: (label or None, score or vector)}."""
    rows = [row for path in sorted(pathlib.Path(folder).rglob("*")) if path.is_file() and not path.name.startswith(("_", ".")) for row in read(path)]
    found = {record: (row.get("label"), np.array(row["embedding"] if "embedding" in row else row["score"]))
             for record, row in zip(identities(name, rows, each), rows)}
    assert len(found) == len(rows), f"{folder}: records are there twice"
    return found


def read(path):
    if path.suffix == ".parquet":
        return pq.ParquetFile(path).read().to_pylist()
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def identities(name, rows, each):
    """Each row's record: its number, or the picture's name.

    Nightshift says which object a record came from and where in it, by bytes or rows; object k begins with record k times `each`.
    """
    if name == "images":
        return [pathlib.PurePosixPath(row.get("file") or row["_source"]).name for row in rows]
    if all("id" in row for row in rows):
        return [row["id"] for row in rows]
    places = {}
    for row in rows:
        places.setdefault(row["_source"], []).append(row["_position"])
    ranks = {source: {position: rank for rank, position in enumerate(sorted(positions))} for source, positions in places.items()}
    number = {source: int(re.search(r"part-(\d+)", pathlib.PurePosixPath(source).name)[1]) for source in places}
    return [number[row["_source"]] * each + ranks[row["_source"]][row["_position"]] for row in rows]
