"""Runs Nightshift and its peers over the same objects in turn, and prints a table of medians and of ratios within each round."""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

import chart
import check
import workloads

HERE = pathlib.Path(__file__).resolve().parent
PROJECT = workloads.PROJECT
BUCKET = "bench"
WORKLOADS = {"trees-parquet": "trees/parquet", "trees-csv": "trees/csv", "trees-jsonl": "trees/jsonl", "logistic-parquet": "logistic/parquet",
             "logistic-csv": "logistic/csv", "images": "images/jpeg", "texts": "texts/jsonl"}
# Script and variant; a variant belongs to one workload.
PEERS = {"nightshift": None, "python": ("python_job.py", "best"), "python-pillow": ("python_job.py", "pillow"),
         "python-arrival": ("python_job.py", "arrival"), "ray": ("ray_job.py", "best"), "daft": ("daft_job.py", "best")}
ONLY = {"python-pillow": "images", "python-arrival": "texts"}
KEYS = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret", "AWS_ALLOW_HTTP": "true", "AWS_EC2_METADATA_DISABLED": "true"}


class Failed(Exception):
    """Said to whoever ran this, without a traceback."""


def main():
    parser = argparse.ArgumentParser(prog="benches/peers/run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="each runs everything once, in another order (default 5)")
    parser.add_argument("--scale", type=float, help="of the full number of records (default 1; 0.01 with --check)")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help=f"some of {','.join(WORKLOADS)}")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"some of {','.join(PEERS)}")
    parser.add_argument("--store", choices=["s3", "file"], default="s3", help="a bucket on loopback (default), or files")
    parser.add_argument("--nightshift", type=pathlib.Path, help="the binary; otherwise the release binary is built")
    parser.add_argument("--data", type=pathlib.Path, default=HERE / ".data", help="where models, data and results are kept")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="keep every result")
    parser.add_argument("--chart", type=pathlib.Path, metavar="FILE.svg", help="draw the medians")
    parser.add_argument("--check", action="store_true", help="compare predictions instead of times")
    given = parser.parse_args()
    try:
        run(given)
    except Failed as error:
        sys.exit(f"benches/peers/run: {error}")


def run(given):
    names, peers = chosen(given.workloads, WORKLOADS), chosen(given.peers, PEERS)
    scale = given.scale or (0.01 if given.check else 1.0)
    binary = nightshift(given.nightshift) if "nightshift" in peers else None
    models = {WORKLOADS[name].partition("/")[0] for name in names}
    workloads.make(given.data / BUCKET, scale, [model for model in ("trees", "logistic", "images", "texts") if model in models])
    bench = Bench(given.data.resolve(), given.store, scale, binary)
    try:
        if given.check:
            for name in names:
                those = [peer for peer in peers if ONLY.get(peer, name) == name]
                for peer in those:
                    bench.run(peer, name, 0)
                check.compare(name, {peer: bench.folder(peer, name) for peer in those}, *workloads.count(WORKLOADS[name], scale))
            return
        results = []
        for number in range(given.rounds):
            for name in names:
                those = [peer for peer in peers if ONLY.get(peer, name) == name]
                for peer in those[number % len(those):] + those[:number % len(those)]:
                    results.append(bench.run(peer, name, number))
                    print(json.dumps(results[-1]), file=sys.stderr, flush=True)
                    if given.json:
                        given.json.write_text(json.dumps(results, indent=1) + "\n")
    finally:
        bench.stop()
    print(table(results, names, peers))
    if given.chart:
        given.chart.write_text(chart.draw(medians(results), names, peers))


def chosen(text, known):
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise Failed(f"{', '.join(unknown)}: not known; there are {', '.join(known)}")
    return names


def nightshift(binary):
    if binary is None:
        if not shutil.which("cargo"):
            raise Failed("there is no cargo to build Nightshift with; name its binary with --nightshift, or leave it out of --peers")
        subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "nightshift"], cwd=PROJECT, check=True)
        binary = PROJECT / "target/release/nightshift"
    if not binary.is_file():
        raise Failed(f"{binary}: there is no such file")
    if subprocess.run([binary, "bench", "--help"], capture_output=True).returncode != 0:
        raise Failed(f"{binary} has no command `bench`: it is older than this comparison")
    return binary.resolve()


class Bench:
    """The store, and what runs against it."""

    def __init__(self, data, store, scale, binary):
        self.data, self.store, self.scale, self.binary = data, store, scale, binary
        self.environment = os.environ | KEYS | {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.server = None
        if store == "s3":
            self.server = subprocess.Popen([sys.executable, HERE / "s3_server.py", data], stdout=subprocess.PIPE, text=True)
            address = self.server.stdout.readline().strip()
            if not address:
                raise Failed("the store's server did not start")
            self.environment |= {"AWS_ENDPOINT_URL_S3": address, "AWS_ENDPOINT_URL": address}

    def stop(self):
        if self.server:
            self.server.terminate()
            self.server.wait()

    def location(self, path, scheme=False):
        if self.store == "s3":
            return f"s3://{BUCKET}/{path}/"
        return f"{'file://' if scheme else ''}{self.data / BUCKET / path}/"

    def folder(self, peer, name):
        """Where the results lie, on this machine."""
        below = "run-1" if peer == "nightshift" else ""
        return self.data / BUCKET / "results" / peer / name / below

    def run(self, peer, name, number):
        """Runs one of them over a workload. Returns what it took."""
        shutil.rmtree(self.data / BUCKET / "results" / peer / name, ignore_errors=True)
        before = self.server_seconds()
        result = self.run_nightshift(name) if peer == "nightshift" else self.run_peer(peer, name)
        result |= {"peer": peer, "workload": name, "round": number, "scale": self.scale, "store": self.store}
        if peer != "nightshift":
            result["server_cpu_seconds"] = round(self.server_seconds() - before, 2)
        wanted = workloads.count(WORKLOADS[name], self.scale)[0]
        if result["records"] != wanted:
            raise Failed(f"{peer} on {name}: {result['records']} records of {wanted}")
        return result

    def run_peer(self, peer, name):
        script, variant = PEERS[peer]
        model = self.data / BUCKET / WORKLOADS[name].partition("/")[0] / "model"
        output = self.location(f"results/{peer}/{name}")
        command = [sys.executable, HERE / script, name, "--model", model, "--input", self.location(WORKLOADS[name]), "--output", output, "--variant", variant]
        return json.loads(self.answer(f"{peer} on {name}", command, self.environment).splitlines()[-1])

    def run_nightshift(self, name):
        library = subprocess.run([PROJECT / "scripts/fetch-onnxruntime"], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        environment = os.environ | {key: value for key, value in self.environment.items() if key.startswith("AWS_")} | {"ORT_DYLIB_PATH": library}
        model = self.location(f"{WORKLOADS[name].partition('/')[0]}/model", scheme=True)
        command = [self.binary, "bench", "--model", model, "--input", self.location(WORKLOADS[name], scheme=True),
                   "--output", self.location(f"results/nightshift/{name}", scheme=True), "--format", "jsonl" if name == "images" else "parquet",
                   "--runs", "1", "--output", "json", "--data-dir", self.data / "nightshift"]
        told = json.loads(self.answer(f"nightshift on {name}", command, environment))
        job = told["job"]
        return {"records": told["records"], "setup_seconds": None, "seconds": job["seconds"], "cpu_seconds": job["cpu_seconds"],
                "peak_bytes": job["peak_bytes"], "server_cpu_seconds": job.get("elsewhere_cpu_seconds"),
                "runtime_records_per_second": told["runtime"]["records_per_second"], "bound_records_per_second": told["bound"]["records_per_second"],
                "ratio_to_runtime": told["ratio_to_runtime"], "ratio_to_bound": told["ratio_to_bound"]}

    @staticmethod
    def answer(what, command, environment):
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
        if done.returncode != 0 or not done.stdout.strip():
            raise Failed(f"{what} failed with exit code {done.returncode}:\n{done.stderr[-4000:]}")
        return done.stdout

    def server_seconds(self):
        if not self.server:
            return 0.0
        fields = pathlib.Path(f"/proc/{self.server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rate(result):
    return result["records"] / result["seconds"]


def medians(results):
    """{(workload, peer): what it took, medians}."""
    found = {}
    for result in results:
        found.setdefault((result["workload"], result["peer"]), []).append(result)
    return {key: {"rate": statistics.median(map(rate, those))} | {name: median(those, name) for name in those[0] if name not in ("peer", "workload", "store")}
            for key, those in found.items()}


def median(results, name):
    values = [result[name] for result in results if result.get(name) is not None]
    return statistics.median(values) if values else None


def ratio(results, name, peer):
    """Nightshift's rate over a peer's within each round; the median of these."""
    rates = {(r["peer"], r["round"]): rate(r) for r in results if r["workload"] == name}
    found = [rates["nightshift", number] / value for (who, number), value in rates.items() if who == peer and ("nightshift", number) in rates]
    return statistics.median(found) if found else None


def table(results, names, peers):
    lines = ["| workload | | records/s | setup s | CPU s | server CPU s | peak MiB | Nightshift, times as fast | of the runtime alone | of the bound |",
             "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    found = medians(results)
    for name in names:
        for peer in (peer for peer in peers if (name, peer) in found):
            m = found[name, peer]
            times = ratio(results, name, peer) if peer != "nightshift" else None
            lines.append(f"| {name} | {peer} | {cell(m['rate'], ',.0f')} | {cell(m['setup_seconds'], '.2f')} | {cell(m['cpu_seconds'], '.1f')} | "
                         f"{cell(m.get('server_cpu_seconds'), '.1f')} | {cell(m['peak_bytes'] / 2**20, ',.0f')} | {cell(times, '.2f')} | "
                         f"{cell(m.get('ratio_to_runtime'), '.2f')} | {cell(m.get('ratio_to_bound'), '.2f')} |")
    return "\n".join(lines)


def cell(value, form):
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main()
