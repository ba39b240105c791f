"""Ray Data on this machine: its own readers and writers, and actors with a session each for map_batches.

Pictures are read as bytes and decoded in the actors: decoded ones would travel through the object store at full size.
"""
from measure import Meter

meter = Meter()

import os  # noqa: E402  imports are part of the setup that is measured

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}

import logging  # noqa: E402
import pathlib  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.csv  # noqa: E402
import pyarrow.json  # noqa: E402
import ray  # noqa: E402
import ray.data  # noqa: E402

import predict  # noqa: E402
from job import arguments, filesystem, written  # noqa: E402


class Actor:
    """Says when it is ready: the job's clock begins when all of them are."""

    def __init__(self, form, model, batch, ready):
        self.predict = {"table": predict.Table, "images": predict.Images, "texts": predict.Texts}[form](model, batch)
        self.form = form
        pathlib.Path(ready, str(os.getpid())).write_text(str(time.time()))

    def __call__(self, batch):
        if self.form == "table":
            return self.predict(batch.combine_chunks()).cast(pa.schema([("id", pa.int64()), ("label", pa.string()), ("score", pa.float32())]))
        if self.form == "images":
            labels, scores = self.predict(batch["bytes"].to_pylist())
            return pa.table({"file": batch["path"], "label": labels, "score": pa.array(scores, pa.float32())})
        vectors = self.predict(batch["text"].to_pylist())
        embedding = pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(vectors).ravel(), vectors.shape[1])
        return pa.table({"id": batch["id"], "embedding": embedding})


def read(given):
    store, path = filesystem(given.input)
    if given.form == "images":
        return ray.data.read_binary_files(path, filesystem=store, include_paths=True, file_extensions=["jpg"])
    if given.form == "texts":
        return ray.data.read_json(path, filesystem=store, file_extensions=["jsonl"])
    features = predict.Table(given.model).features
    schema = pa.schema([("id", pa.int64())] + [(name, pa.float32()) for name in features])
    if given.encoding == "parquet":
        return ray.data.read_parquet(path, filesystem=store).select_columns(schema.names)
    if given.encoding == "csv":
        return ray.data.read_csv(path, filesystem=store, convert_options=pa.csv.ConvertOptions(column_types=schema, include_columns=schema.names))
    return ray.data.read_json(path, filesystem=store, file_extensions=["jsonl"], parse_options=pa.json.ParseOptions(explicit_schema=schema))


def main():
    given = arguments(__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = 300
    ready = tempfile.mkdtemp(prefix="ray-ready-")
    meter.begin()

    # Actors ask for half a core each on paper, so that readers and writers find room beside them.
    predicted = read(given).map_batches(
        Actor, fn_constructor_args=(given.form, os.path.abspath(given.model), given.batch, ready), batch_format="pyarrow",
        batch_size={"table": 1 << 16, "images": 64, "texts": 1024}[given.form],
        compute=ray.data.ActorPoolStrategy(size=given.workers), num_cpus=0.5)
    store, path = filesystem(given.output)
    if given.form == "images":
        predicted.write_json(path, filesystem=store)
    else:
        predicted.write_parquet(path, filesystem=store)
    meter.end()
    meter.began_later(max(float(file.read_text()) for file in pathlib.Path(ready).iterdir()))
    meter.report("ray", given.workload, written(given))
    ray.shutdown()


if __name__ == "__main__":
    main()
