"""What every peer does with a batch: the same preparation, the same sessions, the same predictions. How batches get here is the peer's own."""
import contextlib
import functools
import io
import json
import pathlib
import queue

import numpy as np
import onnxruntime
import pyarrow as pa


# Predictors that are ready: whichever thread has a batch takes one, and puts it back.
READY = queue.SimpleQueue()


@contextlib.contextmanager
def predictor():
    taken = READY.get()
    try:
        yield taken
    finally:
        READY.put(taken)


def session(folder, threads=1):
    """A session for one of several workers: one thread, and none that spins beside the others' work."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(pathlib.Path(folder) / "model.onnx"), options, providers=["CPUExecutionProvider"])


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


class Table:
    """Rows of columns to a label and its score."""

    def __init__(self, folder, batch=None):
        settings = json.loads((pathlib.Path(folder) / "nightshift.json").read_text())
        self.features, self.labels = settings["features"], pa.array(settings["labels"])
        self.batch = batch or 4096
        self.session = session(folder)
        self.input = self.session.get_inputs()[0].name

    def __call__(self, rows):
        """`rows`: a table or batch of `id` and the features. Returns a table of `id`, `label`, `score`."""
        columns = [rows.column(name).to_numpy() for name in self.features]
        labels, scores = np.empty(len(rows), np.int8), np.empty(len(rows), np.float32)
        for start in range(0, len(rows), self.batch):
            part = slice(start, min(start + self.batch, len(rows)))
            matrix = np.empty((part.stop - part.start, len(columns)), np.float32)
            for j, column in enumerate(columns):
                matrix[:, j] = column[part]
            label, probability = self.session.run(None, {self.input: matrix})
            labels[part], scores[part] = label, functools.reduce(np.maximum, probability.T)
        return pa.table({"id": rows.column("id"), "label": pa.DictionaryArray.from_arrays(labels, self.labels), "score": scores})


class Images:
    """Encoded pictures to a label and its score, prepared as the model's preprocessor_config.json says.

    `decoder`: `turbo` decodes by simplejpeg and resizes only what the crop keeps, `pillow` does each step by itself as most scripts do.
    """

    def __init__(self, folder, batch=None, decoder="turbo"):
        from PIL import Image
        self.image, self.decoder = Image, decoder
        processor = json.loads((pathlib.Path(folder) / "preprocessor_config.json").read_text())
        names = json.loads((pathlib.Path(folder) / "config.json").read_text())["id2label"]
        self.labels = [names[str(k)] for k in range(len(names))]
        self.edge, self.crop = processor["size"]["shortest_edge"], processor["crop_size"]["height"]
        self.filter = Image.Resampling(processor["resample"])
        mean, std = (np.array(processor[name], np.float32)[:, None, None] for name in ("image_mean", "image_std"))
        self.factor, self.offset = np.float32(processor["rescale_factor"]) / std, -mean / std
        self.batch = batch or 8
        self.session = session(folder)

    def prepare(self, data, slot):
        if self.decoder == "turbo":
            import simplejpeg
            picture = self.image.fromarray(simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False))
        else:
            picture = self.image.open(io.BytesIO(data)).convert("RGB")
        width, height = picture.size
        short = min(width, height)
        wide, high = int(self.edge * width / short), int(self.edge * height / short)
        left, top = (wide - self.crop) // 2, (high - self.crop) // 2
        if self.decoder == "turbo":
            x, y = width / wide, height / high
            picture = picture.resize((self.crop, self.crop), self.filter, (left * x, top * y, (left + self.crop) * x, (top + self.crop) * y))
        else:
            picture = picture.resize((wide, high), self.filter).crop((left, top, left + self.crop, top + self.crop))
        np.multiply(np.asarray(picture).transpose(2, 0, 1), self.factor, out=slot)
        slot += self.offset

    def __call__(self, pictures):
        """`pictures`: bytes each. Returns labels and scores."""
        labels, scores = [], []
        for start in range(0, len(pictures), self.batch):
            part = pictures[start:start + self.batch]
            tensor = np.empty((len(part), 3, self.crop, self.crop), np.float32)
            for data, slot in zip(part, tensor):
                self.prepare(data, slot)
            probability = softmax(self.session.run(None, {"pixel_values": tensor})[0])
            best = probability.argmax(axis=1)
            labels += [self.labels[k] for k in best]
            scores += probability[np.arange(len(part)), best].tolist()
        return labels, scores


class Texts:
    """Texts to vectors: mean of the tokens' vectors, of length one.

    `order`: `sorted` batches a window of texts by length, `arrival` as they come; either pads to the longest of the batch.
    """

    def __init__(self, folder, batch=None, order="sorted"):
        from tokenizers import Tokenizer
        folder = pathlib.Path(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"])
        self.batch, self.order = batch or 32, order
        self.session = session(folder)

    def __call__(self, texts):
        """Returns vectors [texts, dimensions], in the order of `texts`."""
        encoded = self.tokenizer.encode_batch_fast(texts)
        lengths = np.array([len(e) for e in encoded])
        order = np.argsort(lengths, kind="stable") if self.order == "sorted" else np.arange(len(texts))
        vectors = None
        for start in range(0, len(texts), self.batch):
            part = order[start:start + self.batch]
            ids = np.zeros((len(part), lengths[part].max()), np.int64)
            mask = np.arange(ids.shape[1]) < lengths[part, None]
            for slot, k in zip(ids, part):
                slot[:lengths[k]] = encoded[k].ids
            states = self.session.run(None, {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": np.zeros_like(ids)})[0]
            pooled = np.matmul(mask[:, None].astype(np.float32), states)[:, 0]
            pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
            if vectors is None:
                vectors = np.empty((len(texts), pooled.shape[1]), np.float32)
            vectors[part] = pooled
        return vectors
