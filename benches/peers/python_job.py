"""The careful script: objects fetched ahead by threads, a worker a core with a session of its own, results written behind.

A group of objects is fetched, decoded, predicted, encoded and written as a whole. Everything heavy runs outside the interpreter's lock.
"""
from measure import Meter

meter = Meter()

import collections  # noqa: E402  imports are part of the setup that is measured
import queue  # noqa: E402
import threading  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402

import numpy as np  # noqa: E402
import orjson  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.csv  # noqa: E402
import pyarrow.json  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

import predict  # noqa: E402
from job import Store, arguments  # noqa: E402

FETCHERS = {"table": 2, "images": 8, "texts": 2}
GROUP = {"table": 1, "images": 64, "texts": 1}
AHEAD = 2


def encode_parquet(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


class TableWorker:
    extension = "parquet"

    def __init__(self, given):
        self.table, self.encoding = predict.Table(given.model, given.batch), given.encoding
        names = ["id", *self.table.features]
        self.schema = pa.schema([("id", pa.int64())] + [(name, pa.float32()) for name in self.table.features])
        self.csv = pa.csv.ConvertOptions(column_types=self.schema, include_columns=names)
        self.json = pa.json.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior="ignore")

    def batches(self, data):
        buffer = pa.BufferReader(pa.py_buffer(data))
        if self.encoding == "parquet":
            return pq.ParquetFile(buffer).iter_batches(1 << 16, columns=self.schema.names, use_threads=False)
        if self.encoding == "csv":
            return pa.csv.open_csv(buffer, pa.csv.ReadOptions(use_threads=False, block_size=4 << 20), convert_options=self.csv)
        return pa.json.open_json(buffer, pa.json.ReadOptions(use_threads=False, block_size=4 << 20), self.json)

    def __call__(self, names, objects):
        results = [self.table(batch) for data in objects for batch in self.batches(data)]
        return encode_parquet(pa.concat_tables(results)), sum(map(len, results))


class ImageWorker:
    extension = "jsonl"

    def __init__(self, given):
        self.images = predict.Images(given.model, given.batch, "pillow" if given.variant == "pillow" else "turbo")

    def __call__(self, names, objects):
        labels, scores = self.images(objects)
        lines = (orjson.dumps({"file": name, "label": label, "score": score}, option=orjson.OPT_APPEND_NEWLINE)
                 for name, label, score in zip(names, labels, scores))
        return b"".join(lines), len(names)


class TextWorker:
    extension = "parquet"

    def __init__(self, given):
        self.texts = predict.Texts(given.model, given.batch, "arrival" if given.variant == "arrival" else "sorted")

    def __call__(self, names, objects):
        rows = [orjson.loads(line) for data in objects for line in bytes(data).splitlines()]
        vectors = self.texts([row["text"] for row in rows])
        values = pa.array(np.ascontiguousarray(vectors).ravel())
        table = pa.table({"id": [row["id"] for row in rows], "embedding": pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])})
        return encode_parquet(table), len(rows)


def main():
    given = arguments(__doc__.splitlines()[0], variants=("pillow", "arrival"))
    source, sink = Store(given.input), Store(given.output)
    workers = [{"table": TableWorker, "images": ImageWorker, "texts": TextWorker}[given.form](given) for _ in range(given.workers)]
    meter.begin()

    names = source.list()
    groups = [names[k:k + GROUP[given.form]] for k in range(0, len(names), GROUP[given.form])]
    todo = queue.Queue(maxsize=AHEAD)
    failures, counts, puts = [], [0] * len(workers), collections.deque()
    with ThreadPoolExecutor(FETCHERS[given.form]) as fetchers, ThreadPoolExecutor(2) as writers:
        def work(k):
            try:
                while item := todo.get():
                    index, group, fetches = item
                    data, count = workers[k](group, [fetch.result() for fetch in fetches])
                    counts[k] += count
                    puts.append(writers.submit(sink.write, f"part-{index:05}.{workers[k].extension}", data))
            except BaseException as error:
                failures.append(error)
                while todo.get():
                    pass  # so that nobody waits for room

        threads = [threading.Thread(target=work, args=(k,)) for k in range(len(workers))]
        for thread in threads:
            thread.start()
        for index, group in enumerate(groups):
            todo.put((index, group, [fetchers.submit(source.read, name) for name in group]))
        for _ in threads:
            todo.put(None)
        for thread in threads:
            thread.join()
        for put in puts:
            put.result()
    if failures:
        raise failures[0]
    meter.end()
    meter.report("python" + (f"-{given.variant}" if given.variant != "best" else ""), given.workload, sum(counts))


if __name__ == "__main__":
    main()
