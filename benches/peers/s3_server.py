"""A bucket on loopback for every system that is compared: the S3 protocol over a folder, with as little work as can be.

    python s3_server.py FOLDER [--port N]        prints its address, serves until it is ended

Bodies leave by sendfile, so that the server takes as little as possible of the cores it shares with those it serves. A key is a file, a
bucket a folder of the root. What it knows: ListBuckets, HEAD bucket, ListObjects (1 and 2), HEAD, GET with ranges, PUT (plain or
aws-chunked, conditional), multipart uploads, DELETE and DeleteObjects. It checks no signature: it is for loopback and for measuring.
"""
import argparse
import email.utils
import hashlib
import io
import os
import pathlib
import re
import socket
import socketserver
import sys
import threading
import urllib.parse
import uuid
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler
from xml.sax.saxutils import escape, unescape

SEND = 1 << 24
RECEIVE = 1 << 20
COMMIT = threading.Lock()


def etag(status):
    """Told by what the file is, as no one here needs the digest of its bytes."""
    return f'"{hashlib.md5(f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}".encode()).hexdigest()}"'


class Exactly(io.RawIOBase):
    """So many bytes of a source."""

    def __init__(self, source, size):
        self.source, self.left = source, size

    def readable(self):
        return True

    def readinto(self, target):
        part = self.source.read(min(self.left, len(target)))
        if self.left and not part:
            raise ConnectionError("the body is too short")
        target[:len(part)] = part
        self.left -= len(part)
        return len(part)


class Frames(io.RawIOBase):
    """What is in frames, each its size in hexadecimal, a line's end, its bytes and a line's end, up to one of size 0 and trailers."""

    def __init__(self, source):
        self.source, self.left, self.ended = source, 0, False

    def readable(self):
        return True

    def readinto(self, target):
        if not self.left and not self.ended:
            self.left = int(self.source.readline().split(b";")[0], 16)
            if not self.left:
                self.ended = True
                while self.source.readline().strip():
                    pass
        part = self.source.read(min(self.left, len(target))) if self.left else b""
        if self.left and not part:
            raise ConnectionError("the body is too short")
        target[:len(part)] = part
        self.left -= len(part)
        if part and not self.left:
            self.source.readline()
        return len(part)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    rbufsize = 1 << 18
    wbufsize = 1 << 16
    # Small answers wait for nobody's acknowledgement.
    disable_nagle_algorithm = True

    def log_message(self, format, *arguments):
        pass

    def log_error(self, format, *arguments):
        print(self.command, self.path, format % arguments, file=sys.stderr)

    # --- what a request names

    def parse(self):
        url = urllib.parse.urlsplit(self.path)
        bucket, _, key = urllib.parse.unquote(url.path).lstrip("/").partition("/")
        if ".." in pathlib.PurePosixPath(f"{bucket}/{key}").parts:
            return None, None, None
        query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query, keep_blank_values=True).items()}
        return bucket, key, query

    def file(self, bucket, key):
        return os.path.join(self.server.root, bucket, key)

    # --- answers

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if body:
            self.send_header("Content-Type", "application/xml")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def xml(self, text, status=200):
        self.answer(status, b'<?xml version="1.0" encoding="UTF-8"?>\n' + text.encode())

    def error(self, status, code):
        # What is left of the request's body would be taken for the next request.
        self.close_connection = self.close_connection or self.command in ("PUT", "POST")
        if self.command == "HEAD":
            return self.answer(status)
        self.xml(f"<Error><Code>{code}</Code><Message>{code}</Message><Resource>{escape(self.path)}</Resource></Error>", status)

    # --- reading

    def do_GET(self):
        bucket, key, query = self.parse()
        if bucket is None:
            return self.error(400, "InvalidArgument")
        if not bucket:
            names = "".join(f"<Bucket><Name>{escape(n)}</Name></Bucket>" for n in sorted(os.listdir(self.server.root)))
            return self.xml(f"<ListAllMyBucketsResult><Buckets>{names}</Buckets></ListAllMyBucketsResult>")
        if not key:
            if "location" in query:
                return self.xml('<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>')
            if self.command == "HEAD":
                there = os.path.isdir(self.file(bucket, ""))
                return self.answer(200) if there else self.error(404, "NoSuchBucket")
            return self.list(bucket, query)
        try:
            file = open(self.file(bucket, key), "rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return self.error(404, "NoSuchKey")
        with file:
            self.send_object(file)

    do_HEAD = do_GET

    def send_object(self, file):
        status = os.fstat(file.fileno())
        tag, size = etag(status), status.st_size
        if self.headers.get("If-Match", tag) not in (tag, tag.strip('"'), "*"):
            return self.error(412, "PreconditionFailed")
        if self.headers.get("If-None-Match") in (tag, tag.strip('"'), "*"):
            return self.error(304, "NotModified")
        start, end, code = 0, size, 200
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked and asked[0] != "bytes=-":
            first, last = asked[1], asked[2]
            start = int(first) if first else max(0, size - int(last))
            end = min(size, int(last) + 1) if first and last else size
            if start >= max(end, 1):
                return self.error(416, "InvalidRange")
            code = 206
        self.send_response(code)
        self.send_header("ETag", tag)
        self.send_header("Last-Modified", email.utils.formatdate(status.st_mtime, usegmt=True))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(end - start))
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.flush()
        while start < end:
            sent = os.sendfile(self.connection.fileno(), file.fileno(), start, min(SEND, end - start))
            if sent == 0:
                raise ConnectionError("the file became shorter")
            start += sent

    def list(self, bucket, query):
        root = self.file(bucket, "")
        if not os.path.isdir(root):
            return self.error(404, "NoSuchBucket")
        prefix, delimiter, limit = query.get("prefix", ""), query.get("delimiter", ""), min(int(query.get("max-keys") or 1000), 1000)
        second = query.get("list-type") == "2"
        after = max(query.get("continuation-token", ""), query.get("start-after", "")) if second else query.get("marker", "")
        rows, last, truncated, groups = [], "", False, set()
        for key in self.keys(root, prefix):
            rest = key[len(prefix):]
            group = prefix + rest.split(delimiter)[0] + delimiter if delimiter and delimiter in rest else None
            if key <= after or (group and (group <= after or group in groups)):
                continue
            if len(rows) == limit:
                truncated = True
                break
            if group:
                groups.add(group)
                rows.append(f"<CommonPrefixes><Prefix>{escape(group)}</Prefix></CommonPrefixes>")
                last = group
            else:
                status = os.stat(os.path.join(root, key))
                rows.append(f"<Contents><Key>{escape(key)}</Key><LastModified>{stamp(status.st_mtime)}</LastModified><ETag>{escape(etag(status))}</ETag>"
                            f"<Size>{status.st_size}</Size><StorageClass>STANDARD</StorageClass></Contents>")
                last = key
        more = ""
        if truncated:
            name = "NextContinuationToken" if second else "NextMarker"
            more = f"<{name}>{escape(last)}</{name}>"
        self.xml(f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{escape(bucket)}</Name><Prefix>{escape(prefix)}</Prefix>'
                 f"<KeyCount>{len(rows)}</KeyCount><MaxKeys>{limit}</MaxKeys><IsTruncated>{str(truncated).lower()}</IsTruncated>{more}{''.join(rows)}"
                 "</ListBucketResult>")

    @staticmethod
    def keys(root, prefix):
        """Keys below a prefix, sorted as S3 sorts: by their bytes."""
        folder = prefix.rpartition("/")[0]
        found = []
        for path, _, names in os.walk(os.path.join(root, folder)):
            below = os.path.relpath(path, root)
            found += [name if below == "." else f"{below}/{name}" for name in names if not name.endswith(".partial")]
        return sorted(key for key in found if key.startswith(prefix))

    # --- writing

    def body(self, sink):
        """The request's body, without the frames of HTTP's chunks and of aws-chunked; some clients send one within the other."""
        source = self.rfile
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            source = io.BufferedReader(Frames(source), RECEIVE)
        streamed = self.headers.get("x-amz-content-sha256", "").startswith("STREAMING-")
        if streamed or "aws-chunked" in self.headers.get("Content-Encoding", ""):
            source = io.BufferedReader(Frames(source), RECEIVE)
        elif source is self.rfile:
            source = io.BufferedReader(Exactly(source, int(self.headers.get("Content-Length") or 0)), RECEIVE)
        while part := source.read(RECEIVE):
            sink.write(part)
        if "chunked" in self.headers.get("Transfer-Encoding", "") and streamed:
            source.raw.source.read()  # the outer frames' end

    def do_PUT(self):
        bucket, key, query = self.parse()
        if not bucket:
            return self.error(400, "InvalidArgument")
        target = self.file(bucket, key)
        if "x-amz-copy-source" in self.headers:
            return self.error(501, "NotImplemented")
        if not key:
            os.makedirs(target, exist_ok=True)
            return self.answer(200)
        if not os.path.isdir(self.file(bucket, "")):
            return self.error(404, "NoSuchBucket")
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.flush()
        if key.endswith("/"):
            # A folder's marker, which some clients put: folders are here when they hold something.
            self.body(open(os.devnull, "wb"))
            return self.answer(200, headers=[("ETag", '"d41d8cd98f00b204e9800998ecf8427e"')])
        if "uploadId" in query:
            target = os.path.join(self.server.uploads, query["uploadId"], f"{int(query['partNumber']):06}")
            if not os.path.isdir(os.path.dirname(target)):
                return self.error(404, "NoSuchUpload")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        partial = f"{target}.{uuid.uuid4().hex}.partial"
        with open(partial, "wb") as sink:
            self.body(sink)
        if not self.commit(partial, target):
            return self.error(412, "PreconditionFailed")
        self.answer(200, headers=[("ETag", etag(os.stat(target)))])

    def commit(self, partial, target):
        """Puts a file where it belongs, if the request's condition holds; else removes it."""
        with COMMIT:
            there = etag(os.stat(target)) if os.path.isfile(target) else None
            wanted = self.headers.get("If-Match")
            if (self.headers.get("If-None-Match") == "*" and there) or (wanted and wanted.strip('"') != (there or "").strip('"')):
                os.unlink(partial)
                return False
            os.replace(partial, target)
            return True

    def do_POST(self):
        bucket, key, query = self.parse()
        if not bucket:
            return self.error(400, "InvalidArgument")
        if "uploads" in query:
            upload = uuid.uuid4().hex
            os.makedirs(os.path.join(self.server.uploads, upload))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return self.xml(f"<InitiateMultipartUploadResult><Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
                            "</InitiateMultipartUploadResult>")
        document = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if "uploadId" in query:
            folder = os.path.join(self.server.uploads, query["uploadId"])
            numbers = sorted(int(n) for n in re.findall(r"<PartNumber>(\d+)</PartNumber>", document))
            if not os.path.isdir(folder) or not numbers:
                return self.error(404, "NoSuchUpload")
            target = self.file(bucket, key)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            parts = [os.path.join(folder, f"{n:06}") for n in numbers]
            with open(parts[0], "ab") as whole:
                for part in parts[1:]:
                    with open(part, "rb") as more:
                        whole.write(more.read())
            if not self.commit(parts[0], target):
                return self.error(412, "PreconditionFailed")
            remove(folder)
            return self.xml(f"<CompleteMultipartUploadResult><Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key>"
                            f"<ETag>{escape(etag(os.stat(target)))}</ETag></CompleteMultipartUploadResult>")
        if "delete" in query:
            names = re.findall(r"<Key>(.*?)</Key>", document, re.DOTALL)
            for name in names:
                self.delete(bucket, unescape(name, {"&quot;": '"', "&apos;": "'"}))
            told = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
            return self.xml(f'<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{told}</DeleteResult>')
        self.error(400, "InvalidArgument")

    def do_DELETE(self):
        bucket, key, query = self.parse()
        if not bucket or not key:
            return self.error(400, "InvalidArgument")
        if "uploadId" in query:
            remove(os.path.join(self.server.uploads, query["uploadId"]))
        else:
            self.delete(bucket, key)
        self.answer(204)

    def delete(self, bucket, key):
        try:
            os.unlink(self.file(bucket, key))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            pass  # as S3 has it: what is not there is deleted


def remove(folder):
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        os.unlink(os.path.join(folder, name))
    if os.path.isdir(folder):
        os.rmdir(folder)


def stamp(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, root, port):
        self.root = os.path.abspath(root)
        self.uploads = os.path.join(self.root, ".uploads")
        os.makedirs(self.root, exist_ok=True)
        os.makedirs(self.uploads, exist_ok=True)
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request, client_address):
        # A client that goes away has its reasons.
        if not isinstance(sys.exc_info()[1], (ConnectionError, socket.timeout)):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    server = Server(given.folder, given.port)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
