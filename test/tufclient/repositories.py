"""Makes TUF repositories with python-tuf, in the states that a client of them goes through, for conformance_test.go.

usage: repositories.py FOLDER

Writes FOLDER/plan.json: scenarios, each a list of steps. Before a step the mirror serves the step's folder; the step
says what the client is told and what has to come of it.
"""

import datetime
import json
import os
import sys
from copy import deepcopy

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, SuccinctRoles, TargetFile, Targets, Timestamp,
)

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.timezone.utc)
SOON = NOW + datetime.timedelta(days=30)
TOP = ["root", "targets", "snapshot", "timestamp"]
MAKERS = {
    "ed25519": CryptoSigner.generate_ed25519,
    "ecdsa": CryptoSigner.generate_ecdsa,
    "rsa": lambda: CryptoSigner.generate_rsa(scheme="rsassa-pss-sha256"),
}


class Repository:
    def __init__(self, folder, keytype="ed25519"):
        self.folder, self.steps, self.files, self.hashes = folder, [], {}, False
        self.make = MAKERS[keytype]
        self.md = {
            "root": Metadata(Root(expires=SOON)), "targets": Metadata(Targets(expires=SOON)),
            "snapshot": Metadata(Snapshot(expires=SOON)), "timestamp": Metadata(Timestamp(expires=SOON)),
        }
        self.signers = {}
        for role in TOP:
            self.key(role)
        self.published = set()
        self.publish(*TOP)
        self.root = self.files["metadata/1.root.json"]

    def key(self, role, signer=None):
        signer = signer or self.make()
        self.md["root"].signed.add_key(signer.public_key, role)
        self.signers.setdefault(role, []).append(signer)
        return signer

    def rotate(self, role, threshold=1, count=1):
        r = self.md["root"].signed.roles[role]
        r.keyids.clear()
        r.threshold = threshold
        old, self.signers[role] = self.signers[role], []
        for _ in range(count):
            self.key(role)
        return old

    def publish(self, *roles):
        for role in roles:
            md = self.md[role]
            if role in self.published:
                md.signed.version += 1
            self.publish_as_is(role)

    def publish_as_is(self, role):
        md = self.md[role]
        self.published.add(role)
        md.signatures.clear()
        for signer in self.signers[role]:
            md.sign(signer, append=True)
        data = md.to_bytes()
        meta = MetaFile(md.signed.version)
        if self.hashes:
            meta = MetaFile.from_data(md.signed.version, data, ["sha256"])
        if role == "snapshot":
            self.md["timestamp"].signed.snapshot_meta = meta
        elif role not in ("root", "timestamp"):
            self.md["snapshot"].signed.meta[f"{role}.json"] = meta
        name = "timestamp.json" if role == "timestamp" else f"{md.signed.version}.{role}.json"
        self.files[f"metadata/{name}"] = data

    def all(self):
        self.publish("targets", "snapshot", "timestamp")

    def image(self, role, path, data):
        t = TargetFile.from_data(path, data, ["sha256", "sha512"])
        self.md[role].signed.targets[path] = t
        for prefixed in t.get_prefixed_paths():
            self.files[f"targets/{prefixed}"] = data

    def delegate(self, delegator, name, paths=None, terminating=False, prefixes=None):
        signed = self.md[delegator].signed
        if signed.delegations is None:
            signed.delegations = Delegations({}, roles={})
        signed.delegations.roles[name] = DelegatedRole(name, [], 1, terminating, paths, prefixes)
        signer = self.make()
        signed.add_key(signer.public_key, name)
        self.signers.setdefault(name, []).append(signer)
        self.md.setdefault(name, Metadata(Targets(expires=SOON)))

    def step(self, command="refresh", ok=True, target="", content=None, days=0, trusted=None, asked=None):
        name = f"{len(self.steps)}"
        for path, data in self.files.items():
            full = os.path.join(self.folder, name, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "wb") as f:
                f.write(data)
        self.steps.append({
            "folder": name, "command": command, "ok": ok, "target": target, "content": content,
            "time": int((NOW + datetime.timedelta(days=days)).timestamp()), "trusted": trusted, "asked": asked,
        })


SCENARIOS = {}


def scenario(f):
    SCENARIOS[f.__name__] = f
    return f


def good(r, **trusted):
    return {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1} | trusted


@scenario
def basic(r):
    r.step(trusted=good(r), asked=["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"])
    r.step(trusted=good(r), asked=["2.root.json", "timestamp.json"])


@scenario
def download(r):
    r.image("targets", "dir/an image +%?#.bin", b"one")
    r.all()
    r.step("download", target="dir/an image +%?#.bin", content="one")
    r.step("download", target="nothing", ok=False)
    r.image("targets", "dir/an image +%?#.bin", b"two")
    r.all()
    r.step("download", target="dir/an image +%?#.bin", content="two")
    for path in r.files:
        if path.startswith("targets/"):
            r.files[path] = b"evl"
    r.step("download", target="dir/an image +%?#.bin", content="two")  # it is there already
    r.image("targets", "b", b"good")
    r.all()
    for path in r.files:
        if path.endswith(".b"):
            r.files[path] = b"evil"
    r.step("download", target="b", ok=False)


@scenario
def hashes_in_metadata(r):
    r.hashes = True
    r.all()
    r.step(trusted=good(r, timestamp=2, snapshot=2, targets=2))
    r.md["targets"].signed.unrecognized_fields["other"] = "content"
    kept = deepcopy(r.md["snapshot"].signed.meta["targets.json"])
    r.publish("targets")
    kept.version += 1
    r.md["snapshot"].signed.meta["targets.json"] = kept
    r.publish("snapshot", "timestamp")
    r.step(ok=False, trusted=good(r, timestamp=3, snapshot=3, targets=2))


@scenario
def unrecognized_fields(r):
    root = r.md["root"].signed
    root.unrecognized_fields["x"] = {"ä": [1, True, None, "\"\\"]}
    root.keys[root.roles["root"].keyids[0]].unrecognized_fields["y"] = {"b": 2, "a": 1}
    root.roles["targets"].unrecognized_fields["z"] = "\u2028"
    r.publish("root")
    r.step(trusted=good(r, root=2))


def rotation(name, before, after, signed_by, ok):
    """A root with keys and threshold `before`, then one with `after`, signed by the keys with those numbers."""
    def f(r):
        pool = [r.make() for _ in range(10)]
        for (keys, threshold), sigs in ((before, before[0]), (after, signed_by)):
            role = r.md["root"].signed.roles["root"]
            role.keyids.clear()
            role.threshold = threshold
            was = r.signers["root"]
            r.signers["root"] = []
            for i in keys:
                r.md["root"].signed.add_key(pool[i].public_key, "root")
            r.signers["root"] = [pool[i] for i in sigs]
            if sigs is before[0]:
                r.signers["root"] += was
            r.publish("root")
        r.step(ok=ok, trusted={"root": 3 if ok else 2} if not ok else good(r, root=3))
    SCENARIOS["root_rotation_" + name] = f


rotation("1_of_1", ([1], 1), ([2], 1), [1, 2], True)
rotation("1_of_1_not_by_old", ([1], 1), ([2], 1), [2, 3], False)
rotation("1_of_1_not_by_new", ([1], 1), ([2], 1), [1, 3], False)
rotation("3_of_5_one_rotated", ([0, 1, 2, 3, 4], 3), ([0, 1, 3, 4, 5], 3), [0, 4, 1], True)
rotation("3_of_5_all_rotated", ([0, 1, 2, 3, 4], 3), ([5, 6, 7, 8, 9], 3), [0, 2, 4, 5, 6, 7], True)
rotation("3_of_5_two_new_only", ([0, 1, 2, 3, 4], 3), ([0, 1, 3, 4, 5], 3), [0, 2, 4], False)
rotation("threshold_up", ([1, 2, 3], 1), ([1, 2, 3], 2), [1, 2], True)
rotation("threshold_up_not_reached", ([1, 2, 3], 1), ([1, 2, 3], 2), [2], False)
rotation("threshold_down_old_not_reached", ([1, 2, 3], 2), ([1, 2, 3], 1), [1], False)


@scenario
def every_role_rotated(r):
    for i, role in enumerate(["timestamp", "snapshot", "targets"]):
        r.rotate(role, threshold=2, count=3)
        r.signers[role].pop()
        r.publish("root")
        r.all()
        r.step(trusted=good(r, root=i + 2, timestamp=i + 2, snapshot=i + 2, targets=i + 2))
    r.signers["targets"].pop()
    r.all()
    r.step(ok=False, trusted=good(r, root=4, timestamp=5, snapshot=5, targets=4))


@scenario
def too_few_keys_for_the_threshold(r):
    r.md["root"].signed.roles["snapshot"].threshold = 6
    r.publish("root", "snapshot", "timestamp")
    r.step(ok=False, trusted={"root": 2, "timestamp": 2})


@scenario
def rollback_of_the_timestamp(r):
    r.publish("timestamp")
    r.step(trusted=good(r, timestamp=2))
    r.md["timestamp"].signed.version = 1
    r.publish_as_is("timestamp")
    r.step(ok=False, trusted=good(r, timestamp=2))


@scenario
def rollback_of_targets(r):
    r.all()
    r.step(trusted=good(r, timestamp=2, snapshot=2, targets=2))
    r.md["targets"].signed.version = 1
    r.publish_as_is("targets")
    r.publish("snapshot", "timestamp")
    r.step(ok=False, trusted=good(r, timestamp=3, snapshot=2, targets=2))


@scenario
def fast_forward_recovery(r):
    for role in ("targets", "snapshot", "timestamp"):
        r.md[role].signed.version = 99999
        r.publish_as_is(role)
    r.step(trusted=good(r, timestamp=99999, snapshot=99999, targets=99999))
    r.rotate("snapshot")
    r.rotate("timestamp")
    r.publish("root")
    for role in ("targets", "snapshot", "timestamp"):
        r.md[role].signed.version = 1
        r.publish_as_is(role)
    r.step(trusted=good(r, root=2))


@scenario
def same_timestamp_other_content(r):
    r.step(trusted=good(r))
    r.md["timestamp"].signed.snapshot_meta.version = 100
    r.publish_as_is("timestamp")
    r.step(trusted=good(r))


def expired(role, trusted):
    def f(r):
        r.step(trusted=good(r))
        r.md[role].signed.expires = NOW - datetime.timedelta(days=1)
        r.publish(*([role] if role == "root" else ["targets", "snapshot", "timestamp"]))
        r.step(ok=False, trusted=good(r, **trusted))
    SCENARIOS["expired_" + role] = f


expired("root", {"root": 2})
expired("timestamp", {})
expired("snapshot", {"timestamp": 2})
expired("targets", {"timestamp": 2, "snapshot": 2})


@scenario
def expired_what_is_stored(r):
    r.md["timestamp"].signed.expires = NOW + datetime.timedelta(days=7)
    r.publish("timestamp")
    r.step()
    r.md["timestamp"].signed.expires = NOW + datetime.timedelta(days=21)
    r.all()
    r.step(days=18, trusted=good(r, timestamp=3, snapshot=2, targets=2))
    r.step(days=22, ok=False)


@scenario
def delegations_in_order(r):
    for delegator, name in (("targets", "A"), ("targets", "B"), ("A", "C"), ("A", "D"), ("D", "B"), ("B", "A")):
        r.delegate(delegator, name, ["*"])
    r.publish("A", "B", "C", "D")
    r.all()
    r.step("download", target="missing", ok=False, asked=[
        "2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", "1.A.json", "1.C.json", "1.D.json", "1.B.json"])


@scenario
def terminating_delegation(r):
    r.delegate("targets", "A", ["*"], terminating=True)
    r.delegate("targets", "B", ["*"])
    r.image("B", "b", b"b")
    r.publish("A", "B")
    r.all()
    r.step("download", target="b", ok=False)


@scenario
def delegated_paths(r):
    r.delegate("targets", "A", ["*.md"])
    r.delegate("targets", "B", ["releases/*/*"])
    r.delegate("B", "C", ["releases/x/*"])
    r.image("A", "README.md", b"readme")
    r.image("C", "releases/x/1", b"x one")
    r.image("C", "releases/y/1", b"not its own")
    r.publish("A", "C", "B")
    r.all()
    r.step("download", target="README.md", content="readme")
    r.step("download", target="releases/x/1", content="x one")
    r.step("download", target="releases/y/1", ok=False)


@scenario
def path_hash_prefixes(r):
    import hashlib
    digest = hashlib.sha256(b"image").hexdigest()
    r.delegate("targets", "A", prefixes=["0" if digest[0] != "0" else "1"])
    r.delegate("targets", "B", prefixes=[digest[:3]])
    r.image("A", "image", b"from A")
    r.image("B", "image", b"from B")
    r.publish("A", "B")
    r.all()
    r.step("download", target="image", content="from B")


@scenario
def succinct_roles(r):
    roles = SuccinctRoles([], 1, 4, "bin")
    r.md["targets"].signed.delegations = Delegations({}, None, roles)
    signer = r.make()
    r.md["targets"].signed.add_key(signer.public_key)
    for name in roles.get_roles():
        r.md[name], r.signers[name] = Metadata(Targets(expires=SOON)), [signer]
    r.image(roles.get_role_for_target("image"), "image", b"in a bin")
    r.publish(*roles.get_roles())
    r.all()
    r.step("download", target="image", content="in a bin")


@scenario
def odd_role_names(r):
    for name in ("?", "#", "/a", "../a"):
        r.delegate("targets", name, ["*"])
        r.publish(name)
    r.all()
    r.step("download", target="missing", ok=False, asked=[
        "2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", "1.%3F.json", "1.%23.json", "1.%2Fa.json", "1...%2Fa.json"])


@scenario
def expired_delegation(r):
    r.delegate("targets", "A", ["*"])
    r.image("A", "a", b"a")
    r.md["A"].signed.expires = NOW + datetime.timedelta(days=7)
    r.publish("A")
    r.all()
    r.step("download", target="a", content="a")
    r.step("download", target="a", ok=False, days=8)


def main():
    out, plan = sys.argv[1], {}
    for name, make in SCENARIOS.items():
        for keytype in MAKERS if name in ("basic", "every_role_rotated") else ["ed25519"]:
            label = f"{name}_{keytype}"
            repository = Repository(os.path.join(out, label), keytype)
            make(repository)
            with open(os.path.join(out, label, "root.json"), "wb") as f:
                f.write(repository.root)
            plan[label] = repository.steps
    with open(os.path.join(out, "plan.json"), "w", encoding="utf-8") as f:
        json.dump(plan, f)


main()
