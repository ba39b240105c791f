"""Daft on its native runner: its own readers and writers, and a batch function that its threads call with a session each.

Pictures are downloaded by Daft and decoded in the function: its own decoder keeps every picture at full size between two operators.
"""
from measure import Meter

meter = Meter()

import os  # noqa: E402  imports are part of the setup that is measured

os.environ |= {"DAFT_RUNNER": "native", "DAFT_PROGRESS_BAR": "0", "DO_NOT_TRACK": "true", "SCARF_NO_ANALYTICS": "true", "DAFT_ANALYTICS_ENABLED": "0"}

import daft  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from daft import DataType  # noqa: E402
from daft.io import IOConfig, S3Config  # noqa: E402

import predict  # noqa: E402
from job import arguments, written  # noqa: E402

PREDICTION = DataType.struct({"label": DataType.string(), "score": DataType.float32()})


def config(uri):
    if not uri.startswith("s3://"):
        return None
    return IOConfig(s3=S3Config(endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"], key_id=os.environ["AWS_ACCESS_KEY_ID"],
                                access_key=os.environ["AWS_SECRET_ACCESS_KEY"], region_name=os.environ["AWS_REGION"], use_ssl=False))


@daft.func.batch(return_dtype=PREDICTION, unnest=True, use_process=False, batch_size=1 << 16)
def predict_rows(*columns):
    with predict.predictor() as table:
        rows = pa.table([column.to_arrow() for column in columns], ["id", *table.features])
        found = table(rows)
    labels = found["label"].combine_chunks().cast(pa.string())
    return pa.StructArray.from_arrays([labels, found["score"].combine_chunks()], ["label", "score"])


@daft.func.batch(return_dtype=PREDICTION, unnest=True, use_process=False, batch_size=64)
def predict_pictures(pictures):
    with predict.predictor() as images:
        labels, scores = images(pictures.to_pylist())
    return pa.StructArray.from_arrays([pa.array(labels), pa.array(scores, pa.float32())], ["label", "score"])


@daft.func.batch(return_dtype=DataType.fixed_size_list(DataType.float32(), 384), use_process=False, batch_size=1024)
def predict_texts(column):
    with predict.predictor() as texts:
        vectors = texts(column.to_pylist())
    return pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(vectors).ravel(), vectors.shape[1])


def main():
    given = arguments(__doc__.splitlines()[0])
    make = {"table": predict.Table, "images": predict.Images, "texts": predict.Texts}[given.form]
    for _ in range(given.workers):
        predict.READY.put(make(given.model, given.batch))
    where = config(given.input)
    prefix = given.input.rstrip("/")
    meter.begin()

    if given.form == "table":
        schema = {"id": DataType.int64()} | {name: DataType.float32() for name in predict.Table(given.model).features}
        if given.encoding == "parquet":
            rows = daft.read_parquet(f"{prefix}/*.parquet", io_config=where)
        elif given.encoding == "csv":
            rows = daft.read_csv(f"{prefix}/*.csv", infer_schema=False, schema=schema, io_config=where)
        else:
            rows = daft.read_json(f"{prefix}/*.jsonl", infer_schema=False, schema=schema, io_config=where)
        query = rows.select("id", predict_rows(*(daft.col(name) for name in schema)))
    elif given.form == "images":
        urls = daft.from_glob_path(f"{prefix}/*.jpg", io_config=where).select(daft.col("path").alias("file"))
        pictures = urls.with_column("bytes", daft.col("file").download(max_connections=16, io_config=where))
        query = pictures.select("file", predict_pictures(daft.col("bytes")))
    else:
        query = daft.read_json(f"{prefix}/*.jsonl", io_config=where).select("id", predict_texts(daft.col("text")).alias("embedding"))
    write = query.write_json if given.form == "images" else query.write_parquet
    write(given.output.rstrip("/"), io_config=config(given.output))
    meter.end()
    meter.report("daft", given.workload, written(given))


if __name__ == "__main__":
    main()
