"""What the peers' scripts share: their arguments, and where input and output lie."""
import argparse
import os
import pathlib

FORMS = {"trees-parquet": "table", "trees-csv": "table", "trees-jsonl": "table", "logistic-parquet": "table", "logistic-csv": "table",
         "images": "images", "texts": "texts"}


def arguments(description, variants=()):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("workload", choices=FORMS)
    parser.add_argument("--model", required=True, help="folder")
    parser.add_argument("--input", required=True, help="s3://bucket/prefix/ or a folder")
    parser.add_argument("--output", required=True, help="s3://bucket/prefix/ or a folder")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="as many as cores, unless said")
    parser.add_argument("--batch", type=int, help="records given to the runtime at once")
    parser.add_argument("--variant", choices=["best", *variants], default="best")
    given = parser.parse_args()
    given.form = FORMS[given.workload]
    given.encoding = given.workload.partition("-")[2]
    return given


def filesystem(uri):
    """(pyarrow file system, path) of a location; the bucket's server and keys come from AWS's environment names."""
    import pyarrow.fs
    if not uri.startswith("s3://"):
        os.makedirs(uri, exist_ok=True)
        return pyarrow.fs.LocalFileSystem(), os.path.abspath(uri)
    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    store = pyarrow.fs.S3FileSystem(endpoint_override=endpoint, scheme=endpoint.partition(":")[0], region=os.environ["AWS_REGION"])
    return store, uri.removeprefix("s3://").rstrip("/")


def written(given):
    """Records in what was written below the output."""
    import pyarrow.fs
    import pyarrow.parquet as pq
    store, path = filesystem(given.output)
    files = [found for found in store.get_file_info(pyarrow.fs.FileSelector(path, recursive=True)) if found.is_file]
    if given.form == "images":
        return sum(store.open_input_stream(found.path).readall().count(b"\n") for found in files)
    return sum(pq.ParquetFile(found.path, filesystem=store).metadata.num_rows for found in files)


class Store:
    """Whole objects below a location, by obstore, which takes the least time of the clients there are."""

    def __init__(self, uri):
        import obstore.store
        if uri.startswith("s3://"):
            self.store = obstore.store.from_url(uri.rstrip("/"), config=s3_config(), client_options={"allow_http": True})
        else:
            pathlib.Path(uri).mkdir(parents=True, exist_ok=True)
            self.store = obstore.store.LocalStore(uri)

    def list(self):
        return sorted(found["path"] for batch in self.store.list() for found in batch)

    def read(self, name):
        """A buffer over the object's bytes."""
        return memoryview(self.store.get(name).bytes())

    def write(self, name, data):
        self.store.put(name, data)


def s3_config():
    return {"endpoint": os.environ["AWS_ENDPOINT_URL_S3"], "access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
            "secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"], "region": os.environ["AWS_REGION"]}
