"""Checks rendered manifests: python deploy/check.py RENDERED.yaml…; scripts/check-deploy calls it.

Every document by its schema, of the oldest and the newest Kubernetes that the chart is for, with unknown keys refused; KEDA's and Prometheus'
by the models made from their definitions. Then what no schema says: that references meet, that pods have no more rights than they need, that
settings and subcommands are those of the program, that the scaling query counts what it should, and that manifests and chart agree.
"""

import pathlib
import re
import sqlite3
import sys

import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as monitoring

ROOT = pathlib.Path(__file__).resolve().parent.parent
VERSIONS = ("1.27", "1.37")
CUSTOM = {
    "ScaledObject": keda.ScaledObject,
    "TriggerAuthentication": keda.TriggerAuthentication,
    "ServiceMonitor": monitoring.ServiceMonitor,
    "PodMonitor": monitoring.PodMonitor,
}
# Of KEDA's PostgreSQL scaler: pkg/scalers/postgresql_scaler.go.
SCALER_KEYS = {"query", "targetQueryValue", "activationTargetQueryValue", "host", "port", "userName", "dbName", "sslmode"}
# What the program's libraries read beside its own settings.
OTHER_SETTINGS = re.compile(r"(AWS|AZURE|GOOGLE|OTEL)_[A-Z0-9_]+")

faults = []


def fault(where, what):
    faults.append(f"{where}: {what}")


def lost(given, kept, path=""):
    """Keys that a model did not take: models ignore what they do not know."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key not in kept:
                yield f"{path}.{key}"
            else:
                yield from lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(kept, list):
        for at, value in enumerate(given):
            yield from lost(value, kept[at], f"{path}[{at}]")


def schema(where, document):
    model = CUSTOM.get(document["kind"])
    if model:
        kept = model.model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True)
        for key in lost(document, kept):
            fault(where, f"{key} is no key of a {document['kind']}")
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            fault(where, f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")


def template(document):
    return document["spec"]["template"] if document["kind"] in ("Deployment", "Job") else None


def variables(container, documents):
    """Names and values of a container's variables, those of its ConfigMaps included."""
    found = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= documents.get(("ConfigMap", source["configMapRef"]["name"]), {}).get("data", {})
    return found | {v["name"]: v.get("value") for v in container.get("env", [])}


def size(text):
    """Bytes, as the program (3GiB) or Kubernetes (4Gi) writes them."""
    number, unit = re.fullmatch(r"([0-9.]+)([MG])iB?", text).groups()
    return float(number) * {"M": 2**20, "G": 2**30}[unit]


def pod(where, document, documents, program):
    spec = template(document)["spec"]
    security = spec.get("securityContext", {})
    if not (security.get("runAsNonRoot") and security.get("runAsUser") == program["user"] and security.get("runAsGroup") == program["user"]):
        fault(where, f"it does not run as the image's user {program['user']}")
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        fault(where, "it has no seccomp profile")
    if spec.get("automountServiceAccountToken") is not False:
        fault(where, "it has a token for the cluster's API")
    if spec.get("enableServiceLinks") is not False:
        fault(where, "services' variables get among its settings")
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        fault(where, "it shares a namespace of the host")
    mounts = {}
    for volume in spec.get("volumes", []):
        mounts[volume["name"]] = volume
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            fault(where, f"volume {volume['name']} has no limit")
        if "configMap" in volume and ("ConfigMap", volume["configMap"]["name"]) not in documents:
            fault(where, f"there is no ConfigMap {volume['configMap']['name']}")
    account = spec.get("serviceAccountName")
    if account and ("ServiceAccount", account) not in documents:
        fault(where, f"there is no ServiceAccount {account}")
    for container in spec["containers"]:
        rights = container.get("securityContext", {})
        wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        if rights != wanted:
            fault(where, f"its rights are {rights}")
        resources = container.get("resources", {})
        if not ({"cpu", "memory"} <= resources.get("requests", {}).keys() and "memory" in resources.get("limits", {})):
            fault(where, "it does not say what it needs")
        for source in container.get("envFrom", []):
            name = source.get("configMapRef", {}).get("name")
            if name and ("ConfigMap", name) not in documents:
                fault(where, f"there is no ConfigMap {name}")
        settings = variables(container, documents)
        for name in settings:
            if name not in program["settings"] and not OTHER_SETTINGS.fullmatch(name):
                fault(where, f"{name} is no setting of the program")
        subcommand, *flags = container["args"]
        if subcommand not in program["subcommands"]:
            fault(where, f"{subcommand} is no subcommand of the program")
        for flag in flags:
            if flag not in program["flags"]:
                fault(where, f"{flag} is no flag of the program")
        if document["kind"] == "Job":
            continue
        data = [m for m in container["volumeMounts"] if m["mountPath"] == program["data"]]
        if not data or "emptyDir" not in mounts.get(data[0]["name"], {}):
            fault(where, f"{program['data']} cannot be written")
        for mount in container["volumeMounts"]:
            if mount["name"] not in mounts:
                fault(where, f"there is no volume {mount['name']}")
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        if ports.get("http") != program["port"]:
            fault(where, f"the image listens at {program['port']}")
        for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            if container.get(probe, {}).get("httpGet") != {"path": path, "port": "http"}:
                fault(where, f"its {probe} does not ask {path}")
        # The runner's end, requests' and preStop come on top: they stay below 20 s.
        drain = int(settings["NIGHTSHIFT_DRAIN_TIMEOUT"])
        if spec.get("terminationGracePeriodSeconds", 30) < drain + 20:
            fault(where, f"it is killed before its drain of {drain} s is over")
        if subcommand == "worker":
            if "cpu" not in resources["limits"]:
                fault(where, "without a limit it has a session for every core of its node")
            if size(settings["NIGHTSHIFT_RUNNER_MEMORY_LIMIT"]) >= size(resources["limits"]["memory"]):
                fault(where, "its runner may have more memory than it has itself")
            if ("nvidia.com/gpu" in resources["limits"]) != ("cuda" in settings["NIGHTSHIFT_PROVIDERS"].split(",")):
                fault(where, "its providers are not those of its resources")


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def references(where, document, documents):
    kind, spec = document["kind"], document.get("spec", {})
    pods = [template(d)["metadata"]["labels"] for d in documents.values() if d["kind"] == "Deployment"]
    if kind == "Deployment" and not selects(spec["selector"]["matchLabels"], template(document)["metadata"]["labels"]):
        fault(where, "it does not select its own pods")
    if kind == "Deployment":
        for spread in template(document)["spec"]["topologySpreadConstraints"]:
            if spread["labelSelector"] != spec["selector"]:
                fault(where, "it spreads other pods than its own")
    selector = {"Service": lambda: spec["selector"], "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"]}.get(kind)
    if selector:
        selected = [labels["app.kubernetes.io/component"] for labels in pods if selects(selector(), labels)]
        if selected != ["api"]:
            fault(where, f"it selects {selected}")
    if kind == "ServiceMonitor":
        services = [d for d in documents.values() if d["kind"] == "Service" and selects(spec["selector"]["matchLabels"], d["metadata"]["labels"])]
        names = [port["name"] for service in services for port in service["spec"]["ports"]]
        if names != [endpoint["port"] for endpoint in spec["endpoints"]]:
            fault(where, f"it finds the ports {names}")
    if kind == "ScaledObject":
        target = documents.get(("Deployment", spec["scaleTargetRef"]["name"]))
        if not target or "replicas" in target["spec"]:
            fault(where, "its target is missing, or says itself how many it has")
        for trigger in spec["triggers"]:
            if ("TriggerAuthentication", trigger["authenticationRef"]["name"]) not in documents:
                fault(where, "its authentication is missing")
            if unknown := trigger["metadata"].keys() - SCALER_KEYS:
                fault(where, f"the scaler knows nothing of {unknown}")
            if not all(isinstance(value, str) for value in trigger["metadata"].values()):
                fault(where, "the scaler's metadata are texts")
    if kind == "Secret":
        fault(where, "secrets are made beforehand, and not here")


def of_program():
    """What the program's source and image say of themselves."""
    source = "".join(path.read_text() for path in sorted((ROOT / "src/config").glob("*.rs")))
    image = (ROOT / "Dockerfile").read_text()
    commands = source[source.index("pub enum Command {") :]
    commands = commands[: commands.index("\n}\n")]
    fields = re.findall(r"\n    #\[arg\((?:[^\]]*\blong\b[^\]]*)\)\]\n    pub (\w+):", source)
    return {
        "settings": set(re.findall(r'env = "([A-Z0-9_]+)"', source)),
        "subcommands": {name.lower() for name in re.findall(r"\n    (\w+)[(,]", commands)},
        "flags": {"--" + field.replace("_", "-") for field in fields},
        "user": int(re.search(r"^USER (\d+):", image, re.M)[1]),
        "data": re.search(r"NIGHTSHIFT_DATA_DIR=(\S+)", image)[1],
        "port": int(re.search(r"^EXPOSE (\d+)", image, re.M)[1]),
    }


def scaling(query):
    """Runs the query over the tables that the migrations make: it is plain enough for both databases."""
    database = sqlite3.connect(":memory:")
    for step in sorted((ROOT / "migrations/sqlite").glob("*.sql")):
        database.executescript(step.read_text())

    def job(number, wanted):
        columns = {"id": f"job_{number}", "output": f"s3://out/{number}/", "state": "in_progress", "priority": 0, "created_at": number}
        columns |= {name: "{}" for name in ("spec", "model", "pipeline", "labels", "plan", "usage")} | wanted
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        database.execute(f"INSERT INTO job ({names}) VALUES ({marks})", list(columns.values()))

    def depth():
        return database.execute(query).fetchone()[0]

    counts = [depth()]
    for number, (wanted, adds) in enumerate(
        [
            ({"pending": 10, "running": 3}, 13),
            ({"pending": 100, "running": 2, "max_parallel": 4}, 4),
            ({"pending": 1, "running": 1, "max_parallel": 4}, 2),
            ({"pending": 50, "running": 1, "paused_at": 1}, 1),
            ({"running": 2, "state": "cancelling", "ending": "cancelled"}, 2),
            ({"state": "queued"}, 0),
            ({"state": "completed", "ending": "completed", "finished_at": 1}, 0),
        ]
    ):
        job(number, wanted)
        counts.append(depth())
        if counts[-1] - counts[-2] != adds:
            fault("the scaling query", f"{wanted} adds {counts[-1] - counts[-2]} instead of {adds}")
    if counts[0] != 0 or not isinstance(counts[0], float):
        fault("the scaling query", f"says {counts[0]!r} of an empty database")


def essence(documents):
    """What manifests and chart must say alike, by component; names and labels differ."""
    found = {}
    for document in documents.values():
        if document["kind"] in ("Deployment", "Job"):
            spec = template(document)["spec"]
            container = {k: v for k, v in spec["containers"][0].items() if k not in ("envFrom", "imagePullPolicy", "env")}
            container["variables"] = variables(spec["containers"][0], documents)
            kept = {k: v for k, v in spec.items() if k not in ("containers", "volumes", "serviceAccountName", "topologySpreadConstraints")}
            kept["spread"] = [(s["topologyKey"], s["maxSkew"]) for s in spec.get("topologySpreadConstraints", [])]
            kept["strategy"], kept["replicas"] = document["spec"].get("strategy"), document["spec"].get("replicas")
            kept["data"] = [v["emptyDir"] for v in spec.get("volumes", []) if "emptyDir" in v]
            found[document["kind"], template(document)["metadata"]["labels"]["app.kubernetes.io/component"]] = container | kept
        elif document["kind"] == "PodDisruptionBudget":
            found[document["kind"],] = {k: v for k, v in document["spec"].items() if k != "selector"}
        elif document["kind"] == "Service":
            found[document["kind"],] = {"ports": document["spec"]["ports"]}
        elif document["kind"] == "ScaledObject":
            spec = yaml.safe_load(yaml.safe_dump(document["spec"]))
            del spec["triggers"][0]["metadata"]["dbName"]
            found[document["kind"],] = spec
        elif document["kind"] == "TriggerAuthentication":
            found[document["kind"],] = document["spec"]
    return found


def differences(one, other, path=""):
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from differences(one.get(key), other.get(key), f"{path}.{key}")
    elif one != other:
        yield f"{path}: {one!r} here, {other!r} there"


def main(files):
    program, essences, queries, count = of_program(), {}, set(), 0
    for file in map(pathlib.Path, files):
        documents = {}
        for document in filter(None, yaml.safe_load_all(file.read_text())):
            key = (document["kind"], document["metadata"]["name"])
            if key in documents:
                fault(file.name, f"{key} is there twice")
            documents[key] = document
        for (kind, name), document in documents.items():
            where = f"{file.name}: {kind} {name}"
            schema(where, document)
            references(where, document, documents)
            if template(document):
                pod(where, document, documents, program)
            if kind == "ScaledObject":
                queries |= {trigger["metadata"]["query"] for trigger in document["spec"]["triggers"]}
            count += 1
        essences[file.stem] = essence(documents)
    for variant in ("cpu", "gpu", "keda-cpu", "keda-gpu"):
        for difference in differences(essences[f"kustomize-{variant}"], essences[f"helm-{variant}"]):
            fault(f"manifests and chart, {variant}", difference)
    if len(queries) != 1:
        fault("the scaling query", f"there are {len(queries)} of it")
    for query in queries:
        scaling(query)
    for text in faults:
        print(text, file=sys.stderr)
    if faults:
        sys.exit(f"{len(faults)} faults")
    print(f"{count} documents in {len(files)} files")


main(sys.argv[1:])
