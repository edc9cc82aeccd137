"""What deploy/check wants of the container files and no linter knows.

    containers.py [GRANARY]     with the binary, settings and commands are tried on it, too
"""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deploy/compose.yaml"
DOCKERFILE = ROOT / "deploy/Dockerfile"
OURS = "granary:"
# A silo takes 8 s to come to rest, and whoever sends SIGTERM must wait longer.
GRACE_S_MIN = 15
# A closed port: what is tried there ends with 3, unreachable, when its command and settings were accepted.
NOBODY = "127.0.0.1:1"
USAGE, UNREACHABLE = 2, 3


def ok(text):
    print(f"ok       {text}", flush=True)


def wrong(text):
    print(f"WRONG    {text}", file=sys.stderr)
    sys.exit(1)


def instructions():
    """The Dockerfile as (word, rest), without comments."""
    text = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#"))
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


def is_pinned(image):
    """A whole version, or the date of a build, or a digest; not a tag that moves on."""
    tag = image.split("@")[0].rpartition(":")[2] if ":" in image else ""
    return "@sha256:" in image or re.match(r"v?\d+\.\d+\.\d+", tag) or re.search(r"-\d{8}(-|$)", tag)


def check_dockerfile():
    found = list(instructions())
    stages = [i for i, (word, _) in enumerate(found) if word == "FROM"]
    names = {rest.split()[2] for word, rest in found if word == "FROM" and " AS " in rest}
    for i in stages:
        image = found[i][1].split()[0]
        if image not in names and not is_pinned(image):
            wrong(f"Dockerfile: FROM {image} is not pinned")
    ok("Dockerfile: base images are pinned: " + ", ".join(found[i][1].split()[0] for i in stages))
    if len(stages) < 2:
        wrong("Dockerfile: one stage only: what builds would be shipped")
    final = dict(found[stages[-1]:])
    user = final.get("USER", "")
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
        wrong(f"Dockerfile: USER `{user}`: numbers other than 0 expected")
    ok(f"Dockerfile: runs as {user}")
    for word in ["ENTRYPOINT", "CMD"]:
        if not final.get(word, "").startswith("["):
            wrong(f"Dockerfile: {word} is not in exec form: signals would not reach the silo")
    if final.get("STOPSIGNAL") != "SIGTERM":
        wrong("Dockerfile: STOPSIGNAL SIGTERM expected")
    probe = final.get("HEALTHCHECK", "")
    if "CMD [" not in probe:
        wrong("Dockerfile: HEALTHCHECK in exec form expected")
    ok(f"Dockerfile: exec form, SIGTERM, probe {probe[probe.index('['):]}")
    return json.loads(final["ENTRYPOINT"]), json.loads(final["CMD"]), json.loads(probe[probe.index("["):])


def check_context():
    """Every file the Dockerfile copies, and every member cargo wants, is in the build context."""
    lines = [line.strip() for line in (ROOT / ".dockerignore").read_text().splitlines()]
    rules = [(line.lstrip("!"), line.startswith("!")) for line in lines if line and not line.startswith("#")]

    def is_in(path):
        kept = True
        for pattern, keeps in rules:
            prefixes = [str(p) for p in [Path(path), *Path(path).parents] if str(p) != "."]
            bare = pattern.removeprefix("**/")
            if any(fnmatch.fnmatchcase(p, pattern) or pattern != bare and Path(p).name == bare for p in prefixes):
                kept = keeps
        return kept

    wanted = ["Cargo.toml", "Cargo.lock"]
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from") and rest.split()[0] != ".":
            wanted += rest.split()[:-1]
    members = re.search(r"members = \[(.*?)\]", (ROOT / "Cargo.toml").read_text(), re.S)[1]
    wanted += [f"{member}/Cargo.toml" for member in re.findall(r'"([^"]+)"', members)]
    for source in ROOT.glob("*/**/*.rs"):
        if "target" in source.parts:
            continue
        wanted.append(str(source.relative_to(ROOT)))
        for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', source.read_text()):
            if not source.is_relative_to(ROOT / "tests"):
                wanted.append(os.path.relpath(source.parent / name, ROOT))
    for path in wanted:
        if not (ROOT / path).exists():
            wrong(f"Dockerfile or Cargo.toml names {path}: there is no such file")
        if not is_in(path):
            wrong(f".dockerignore leaves out {path}")
    for path in [".git", "target", "client/target", "data", ".env"]:
        if is_in(path):
            wrong(f".dockerignore lets {path} in")
    ok(f".dockerignore: lets {len(wanted)} files in that the build wants, keeps out .git and target")


def seconds(text):
    parts = re.findall(r"(\d+)(h|m|s)", str(text))
    return sum(int(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in parts)


def check_services(services, volumes):
    for name, service in services.items():
        image = service["image"]
        if not is_pinned(image):
            wrong(f"compose: {name}: image {image} is not pinned")
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        if not {"cpus", "memory"} <= limits.keys():
            wrong(f"compose: {name}: limits for cpus and memory expected")
        if "restart" not in service:
            wrong(f"compose: {name}: a restart policy expected")
        if "user" in service or service.get("privileged"):
            wrong(f"compose: {name}: the image's own user expected, without privileges")
        for port in service.get("ports", []):
            if not str(port).startswith("127.0.0.1:"):
                wrong(f"compose: {name}: port {port} is not on loopback, and there is no access control")
        for volume in service.get("volumes", []):
            if volume["type"] == "volume" and volume["source"] not in volumes:
                wrong(f"compose: {name}: there is no volume {volume['source']}")
        for other, how in service.get("depends_on", {}).items():
            if other not in services:
                wrong(f"compose: {name} depends on {other}: there is no such service")
            if how["condition"] == "service_healthy" and not services[other].get("healthcheck"):
                wrong(f"compose: {name} waits for {other} to be healthy, which has no check")
            if how["condition"] == "service_started":
                wrong(f"compose: {name} waits for {other} only to be started")
    ports = [str(port).rpartition(":")[0] for service in services.values() for port in service.get("ports", [])]
    if len(ports) != len(set(ports)):
        wrong(f"compose: a port is published twice: {', '.join(sorted(ports))}")
    images = sorted({service["image"] for service in services.values()})
    ok("compose: images are pinned: " + ", ".join(images))
    ok(f"compose: {len(services)} services have limits, a restart policy and ports on loopback only")


def check_silos(services):
    silos = {name: s for name, s in services.items() if s.get("command", [""])[0] == "silo"}
    for name, silo in silos.items():
        settings = silo["environment"]
        if seconds(silo.get("stop_grace_period", 10)) < GRACE_S_MIN:
            wrong(f"compose: {name}: stop_grace_period of {GRACE_S_MIN} s or more expected")
        if settings.get("GRANARY__SILO__NAME") != name:
            wrong(f"compose: {name}: GRANARY__SILO__NAME is {settings.get('GRANARY__SILO__NAME')}")
        port = settings["GRANARY__SILO__LISTEN"].rpartition(":")[2]
        if settings.get("GRANARY__SILO__ADVERTISE") != f"{name}:{port}":
            wrong(f"compose: {name}: GRANARY__SILO__ADVERTISE is not {name}:{port}")
    ok(f"compose: {', '.join(silos)}: own names and addresses, at least {GRACE_S_MIN} s to stop")


def check_variables(services):
    """Without the binary: the variables are keys of the source."""
    keys = re.findall(r'^    \("([a-z_.]+)", Shape::', (ROOT / "silo/src/config/keys.rs").read_text(), re.M)
    used = {name for service in services.values() for name in service.get("environment", {})
            if name.startswith("GRANARY__")}
    for name in used:
        key = name.removeprefix("GRANARY__").replace("__", ".").lower()
        if key not in keys and not key.startswith("log.kafka."):
            wrong(f"compose: {name}: silo/src/config/keys.rs has no key {key}")
    ok(f"compose: {len(used)} GRANARY__ variables are keys of the configuration")


def directory(service):
    """What the image has at /etc/granary, as this service sees it."""
    for volume in service.get("volumes", []):
        if volume["target"] == "/etc/granary":
            path = COMPOSE.parent / volume["source"]
            if not path.is_dir():
                wrong(f"compose: {volume['source']} is mounted, and there is no such directory")
            return path
    return ROOT / "deploy"


class Tried:
    """Commands of the compose file, tried on the binary."""

    def __init__(self, granary):
        self.granary = granary

    def start(self, command, cwd, environment, **changed):
        kept = {"PATH": os.environ["PATH"], "GRANARY_LOG": "off"}
        # Of what a container would have, only where its servers are is another.
        environment = kept | {k: str(v) for k, v in environment.items() if k != "GRANARY_LOG"} | changed
        return subprocess.Popen([self.granary, *command], cwd=cwd, env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def settings(self, name, cwd, environment):
        tried = self.start(["silo", "--print-config", "--json"], cwd, environment)
        printed = tried.communicate()[0]
        if tried.returncode:
            wrong(f"{name}: its configuration is not accepted:\n{printed}")
        taken = {row["key"]: row for row in map(json.loads, printed.splitlines())}
        for variable, value in environment.items():
            if not variable.startswith("GRANARY__"):
                continue
            row = next((row for row in taken.values() if row["place"] == f"the variable {variable}"), None)
            if row is None or str(row["value"]) != str(value):
                wrong(f"{name}: {variable}={value} is not in effect: {row}")
        for pipeline in taken["pipelines"]["value"]:
            self.pipeline(name, cwd / pipeline)

    def pipeline(self, name, file):
        with tempfile.TemporaryDirectory() as out:
            empty = Path(out) / "empty"
            empty.touch()
            tried = self.start(["run", "-p", str(file), "--input", str(empty), "--out", f"{out}/out"], out, {})
            printed = tried.communicate()[0]
            if tried.returncode:
                wrong(f"{name}: {file} is not accepted:\n{printed}")

    def unreachable(self, name, command, cwd, environment):
        """Starts it where nobody listens; `ended` says what became of it."""
        brokers = {"GRANARY__LOG__BROKERS": NOBODY} if "GRANARY__LOG__BROKERS" in environment else {}
        return name, command, self.start(command, cwd, environment, GRANARY_SILO=NOBODY, **brokers)

    @staticmethod
    def ended(name, command, tried):
        printed = tried.communicate(timeout=120)[0]
        if tried.returncode != UNREACHABLE:
            wrong(f"{name}: granary {' '.join(command)} ends with {tried.returncode}, not {UNREACHABLE}:\n{printed}")


def check_by_binary(granary, services, default, probe):
    tried = Tried(granary)
    waiting = [tried.unreachable("the probe", probe[1:], ROOT, {})]
    ours = {name: service for name, service in services.items() if service["image"].startswith(OURS)}
    tried.settings("the image", ROOT / "deploy", {})
    for name, service in ours.items():
        cwd, environment = directory(service), service.get("environment", {})
        tried.settings(name, cwd, environment)
        command = service.get("command", default)
        if command[0] == "silo":  # it would wait for its servers for ever; its settings were printed
            extra = [*command, "--print-config"]
            one = tried.start(extra, cwd, environment)
            printed = one.communicate()[0]
            if one.returncode:
                wrong(f"{name}: granary {' '.join(extra)} ends with {one.returncode}:\n{printed}")
        else:
            waiting.append(tried.unreachable(name, command, cwd, environment))
    ok(f"binary: every variable is in effect, and the pipelines are accepted: {', '.join(ours)}")
    for one in waiting:
        Tried.ended(*one)
    ok(f"binary: commands are accepted: {'; '.join(' '.join(one[1]) for one in waiting)}; {' '.join(default)}")


def main():
    entrypoint, default, probe = check_dockerfile()
    if entrypoint != ["granary"] or probe[0] != "granary":
        wrong(f"Dockerfile: granary expected as entry point and probe, {entrypoint} and {probe} found")
    check_context()
    compose = yaml.safe_load(COMPOSE.read_text())
    services = compose["services"]
    check_services(services, compose["volumes"])
    check_silos(services)
    check_variables(services)
    for granary in sys.argv[1:2]:
        if not shutil.which(granary):
            wrong(f"{granary}: there is no such program")
        check_by_binary(granary, services, default, probe)


main()
