"""Makes the models and the data that are compared: the same from the same seed, and what is there already is kept.

    python workloads.py FOLDER [--scale 1.0] [--only trees,logistic,images,texts]

Leaves FOLDER/<model>/model (a folder that Nightshift takes) and FOLDER/<model>/<input> (the objects of a prefix):

    trees      100 boosted trees of 31 leaves over 30 columns     parquet: 5 M rows in 20 objects; csv, jsonl: 1 M rows in 4 objects
    logistic   logistic regression over the same columns          parquet: 10 M rows in 40 objects; csv: 2 M rows in 8 objects
    images     MobileNetV2 1.0                                    jpeg: 2,000 photographs of 640×480
    texts      all-MiniLM-L6-v2, 256 tokens at most               jsonl: 5,000 texts of 5 to 250 tokens in 4 objects

Both tabular models read the same rows: objects of the same rows are one file with two names.
"""
import argparse
import csv
import gzip
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np

import mobilenet

PROJECT = pathlib.Path(__file__).resolve().parents[2]
SEED = 20261128
COLUMNS = [f"f{j:02}" for j in range(30)]
LABELS = ["low", "high"]
SIZES = {"trees/parquet": (5_000_000, 20), "trees/csv": (1_000_000, 4), "trees/jsonl": (1_000_000, 4),
         "logistic/parquet": (10_000_000, 40), "logistic/csv": (2_000_000, 8), "images/jpeg": (2_000, 2_000), "texts/jsonl": (5_000, 4)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--scale", type=float, default=1.0, help="of the full number of records")
    parser.add_argument("--only", default="trees,logistic,images,texts")
    given = parser.parse_args()
    make(given.folder, given.scale, given.only.split(","))


def make(folder, scale, models):
    """Makes what is missing of the named models and their inputs below `folder`."""
    makers = {"trees": tables, "logistic": tables, "images": images, "texts": texts}
    for model in models:
        makers[model](folder, model, scale)


def count(workload, scale):
    """Records and objects of a workload at a scale."""
    records, objects = SIZES[workload]
    if workload == "images/jpeg":
        return (max(1, round(records * scale)),) * 2
    each = max(1, round(records * scale / objects))
    return each * objects, objects


def once(path, write):
    """Calls `write` with a path beside `path`, and moves what it wrote there: what is there is whole."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.{os.getpid()}")
    write(work)
    os.rename(work, path)


def folder_once(path, files):
    """A model's folder: names and what writes them."""
    def write(work):
        work.mkdir()
        for name, write_file in files.items():
            write_file(work / name)
    once(path, write)


def document(value):
    return lambda path: path.write_text(json.dumps(value, indent=1) + "\n")


# --- tables

def rows(first, number):
    """Rows `first` … of the one table: 12 measures at full precision, 10 amounts in cents, 8 small counts, all float32."""
    block = 10_000  # drawn by blocks, so that a row does not depend on the object it lies in
    parts = []
    for index in range(first // block, (first + number - 1) // block + 1):
        random = np.random.default_rng([SEED, index])
        x = np.empty((block, 30), np.float32)
        x[:, :12] = random.standard_normal((block, 12))
        x[:, 12:22] = np.round(np.exp(random.normal(4, 1, (block, 10))), 2)
        x[:, 22:] = random.poisson(3, (block, 8))
        parts.append(x)
    x = np.concatenate(parts)
    return x[first % block:first % block + number]


def target(x, random):
    signal = (x[:, 0] + x[:, 1] * x[:, 2] + np.sin(3 * x[:, 3]) + 0.8 * np.log(x[:, 12]) - 0.004 * x[:, 13] + 0.3 * x[:, 22]
              - 0.2 * x[:, 23] * (x[:, 4] > 0) + 0.5 * np.abs(x[:, 5]))
    return signal + random.logistic(0, 0.5, len(x)) > np.median(signal)


def train(model, path):
    import tabular
    x = rows(1_000_000_000, 50_000)  # of rows that no workload reads
    y = target(x, np.random.default_rng(SEED)).astype(np.int64)
    fitted, graph = tabular.boosted_trees(x, y, SEED) if model == "trees" else tabular.logistic_regression(x, y)
    path.write_bytes(graph.SerializeToString())
    agrees(path, fitted, rows(1_000_100_000, 10_000))


def agrees(path, fitted, x):
    """The graph says what the model it was made from says."""
    import onnxruntime
    label, probability = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"columns": x})
    wanted = fitted.predict_proba(x)
    assert np.abs(probability - wanted).max() < 1e-4 and np.mean(label == wanted.argmax(axis=1)) > 0.999, "the graph is another model"


def tables(folder, model, scale):
    folder_once(folder / model / "model", {
        "model.onnx": lambda path: train(model, path),
        "nightshift.json": document({"task": "tabular-classification", "features": COLUMNS, "labels": LABELS}),
    })
    for workload in (w for w in SIZES if w.startswith(f"{model}/")):
        records, objects = count(workload, scale)
        each = records // objects
        form = workload.partition("/")[2]
        for index in range(objects):
            # The number of rows is in the name: objects of another scale are other objects.
            shared = folder / ".rows" / f"{form}-{index * each}-{each}"
            once(shared, lambda path: WRITERS[form](path, index * each, each))
            link = folder / workload / f"part-{index:03}.{form}"
            if not link.exists() or not link.samefile(shared):
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                os.link(shared, link)
        prune(folder / workload, {f"part-{index:03}.{form}" for index in range(objects)})


def prune(folder, names):
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def table(first, number):
    import pyarrow as pa
    x = rows(first, number)
    return pa.table({"id": np.arange(first, first + number)} | {name: x[:, j].copy() for j, name in enumerate(COLUMNS)})


def write_parquet(path, first, number):
    import pyarrow.parquet as pq
    pq.write_table(table(first, number), path, compression="snappy", row_group_size=125_000)


def write_csv(path, first, number):
    import pyarrow.csv
    pyarrow.csv.write_csv(table(first, number), path, pyarrow.csv.WriteOptions(quoting_style="none"))


def write_jsonl(path, first, number):
    import pyarrow.csv
    text = io.BytesIO()
    pyarrow.csv.write_csv(table(first, number), text, pyarrow.csv.WriteOptions(include_header=False, quoting_style="none"))
    line = "{" + ",".join(f'"{name}":%s' for name in ["id", *COLUMNS]) + "}\n"
    with open(path, "w") as out:
        out.writelines(line % tuple(cells.split(",")) for cells in text.getvalue().decode().splitlines())


WRITERS = {"parquet": write_parquet, "csv": write_csv, "jsonl": write_jsonl}


# --- pictures

def images(folder, model, scale):
    from PIL import Image
    processor = {"do_resize": True, "size": {"shortest_edge": 256}, "resample": 2, "do_center_crop": True, "crop_size": {"height": 224, "width": 224},
                 "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    names = {str(k): f"class {k}" for k in range(1000)}
    config = {"architectures": ["MobileNetV2ForImageClassification"], "model_type": "mobilenet_v2", "image_size": 224, "num_labels": 1000,
              "id2label": names, "label2id": {name: int(k) for k, name in names.items()}}
    number, _ = count("images/jpeg", scale)
    photos = PROJECT / "tests/fixtures/data/photos"
    sources = [Image.open(photos / name).convert("RGB") for name in
               ("china.jpg", "flower-progressive.jpg", "chelsea.png", "coffee.webp", "rocket-portrait.jpg", "astronaut-lossless.webp", "motorcycle.bmp", "retina.jpg")]
    folder_once(folder / model / "model", {"model.onnx": lambda path: classifier(path, sources), "config.json": document(config),
                                           "preprocessor_config.json": document(processor)})
    for index in range(number):
        once(folder / model / "jpeg" / f"{index:06}.jpg", lambda path: photograph(path, sources, index))
    prune(folder / model / "jpeg", {f"{index:06}.jpg" for index in range(number)})


def classifier(path, sources):
    from PIL import Image
    pictures = []
    for index in range(1_000_000, 1_000_032):  # none that a workload has
        file = io.BytesIO()
        photograph(file, sources, index)
        pixels = np.asarray(Image.open(file).resize((224, 224), Image.Resampling.BILINEAR), np.float32) / 255
        pictures.append(((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1).astype(np.float32))
    path.write_bytes(mobilenet.build(SEED, pictures).SerializeToString())


def photograph(path, sources, index):
    """A crop of one of the photographs, perhaps mirrored, lighter or darker, with a sensor's noise: 640×480, or that on its side."""
    from PIL import Image, ImageEnhance
    random = np.random.default_rng([SEED, index])
    source = sources[index % len(sources)]
    width, height = (640, 480) if random.random() < 0.85 else (480, 640)
    width, height = width + int(random.integers(-24, 25)), height + int(random.integers(-24, 25))
    share = random.uniform(0.6, 1.0) * min(source.width / width, source.height / height)
    w, h = width * share, height * share
    left, top = random.uniform(0, source.width - w), random.uniform(0, source.height - h)
    picture = source.resize((width, height), Image.Resampling.BICUBIC, (left, top, left + w, top + h))
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = ImageEnhance.Brightness(picture).enhance(random.uniform(0.7, 1.3))
    pixels = np.asarray(picture, np.int16) + random.normal(0, 3, (height, width, 3)).astype(np.int16)
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    picture.save(path, "JPEG", quality=int(random.integers(85, 91)))


# --- texts

def texts(folder, model, scale):
    weights = PROJECT / ".models/all-MiniLM-L6-v2"
    if not weights.exists():
        subprocess.run([PROJECT / "scripts/fetch-test-models"], check=True)
    def package_and_graph(work):
        shutil.copytree(weights, work)
        shutil.copy(PROJECT / "tests/fixtures/models/minilm/model.onnx", work)
    once(folder / model / "model", package_and_graph)

    number, objects = count("texts/jsonl", scale)
    phrases = sentences()
    for index in range(objects):
        each = number // objects
        once(folder / model / "jsonl" / f"part-{index:03}-of-{number}.jsonl", lambda path: write_texts(path, phrases, index * each, each))
    prune(folder / model / "jsonl", {f"part-{index:03}-of-{number}.jsonl" for index in range(objects)})


def sentences():
    """Sentences that people wrote: the posts and reviews among the project's fixtures."""
    found = set()
    for path in sorted((PROJECT / "tests/fixtures/data/reviews").rglob("*.*")):
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="", encoding="utf-8") as source:
            records = csv.DictReader(source) if path.suffix == ".csv" else map(json.loads, source)
            found.update(record["text"].strip() for record in records)
    return sorted(found - {""})


def write_texts(path, phrases, first, number):
    with open(path, "w", encoding="utf-8") as out:
        for identity in range(first, first + number):
            random = np.random.default_rng([SEED, identity])
            # About four letters of such posts are a token: most texts are short, a few are long.
            letters = np.clip(random.lognormal(np.log(45), 0.85), 5, 250) * 4.2
            text = ""
            while len(text) < letters:
                text += (" " if text else "") + phrases[random.integers(len(phrases))]
            cut = text[:int(letters)]
            out.write(json.dumps({"id": identity, "text": cut.rpartition(" ")[0] or cut}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
