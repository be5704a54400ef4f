#!/usr/bin/env python3
"""Read a queue folder of a vehicle, written from buffer/FORMAT.md alone: standard library, no lock, nothing is written to it.

    read_queue.py DIR                  one JSON object a line: meta, segments, batches that are to be sent, journal entries
    read_queue.py DIR --extract OUT    the batches' bytes as files too, LANE-EPOCH-SEQ.batch

What is damaged is a line with "finding"; a damaged segment is searched record by record. Exit 0: all is sound, 3: there are
findings, 1: DIR cannot be read or was written in a newer format."""
import argparse
import hashlib
import json
import os
import struct
import sys

LANES = {1: "control", 2: "event", 3: "telemetry", 4: "raw"}
FORMAT = 1
PAGE = 4096


class Damaged(Exception):
    pass


class Newer(Exception):
    pass


def _table():
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        yield n


TABLE = list(_table())


def crc32c(data):
    crc, table = 0xFFFFFFFF, TABLE
    for b in data:
        crc = table[(crc ^ b) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def summed(data, magic):
    """Magic, versions and the checksum in the last four bytes: the same in every version of the format."""
    if len(data) < 12 or data[:4] != magic or crc32c(data[:-4]) != struct.unpack(">I", data[-4:])[0]:
        raise Damaged(magic.decode() + ": checksum")
    if struct.unpack(">H", data[6:8])[0] > FORMAT:
        raise Newer("needs format %d, this reads %d" % (struct.unpack(">H", data[6:8])[0], FORMAT))


# --- bbolt: little-endian -------------------------------------------------------------------------------------------


class Bolt:
    """The newest state of a bbolt file. Pages are checked as far as they can be; values point into the file."""

    def __init__(self, data):
        self.data = data
        metas = [m for m in map(self._meta, (0, 1)) if m]
        if len(metas) < 2 or abs(metas[0]["txid"] - metas[1]["txid"]) != 1:
            raise Damaged("one of the two meta pages")
        newest = max(metas, key=lambda m: m["txid"])
        self.root, self.pages, self.txid = newest["root"], newest["pages"], newest["txid"]

    def _meta(self, n):
        page = self.data[n * PAGE:n * PAGE + 80]
        if len(page) < 80:
            return None
        magic, version, size, _, root, _, _, pages, txid, checksum = struct.unpack("<IIIIQQQQQQ", page[16:80])
        fnv = 0xCBF29CE484222325
        for b in page[16:72]:
            fnv = (fnv ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        if (magic, version, size, checksum) != (0xED0CDAED, 2, PAGE, fnv):
            return None
        return {"root": root, "pages": pages, "txid": txid}

    def _page(self, number):
        if not 2 <= number < self.pages or (number + 1) * PAGE > len(self.data):
            raise Damaged("page %d is outside of the file" % number)
        start = number * PAGE
        name, flags, count, overflow = struct.unpack("<QHHI", self.data[start:start + 16])
        end = start + (overflow + 1) * PAGE
        if name != number or end > len(self.data):
            raise Damaged("page %d: header" % number)
        return start, end, flags, count

    def _leaf(self, start, end, count):
        for i in range(count):
            at = start + 16 + 16 * i
            if at + 16 > end:
                raise Damaged("page at %d: elements" % start)
            flags, pos, ksize, vsize = struct.unpack("<IIII", self.data[at:at + 16])
            key = at + pos
            if key + ksize + vsize > end:
                raise Damaged("page at %d: element %d" % (start, i))
            yield flags, self.data[key:key + ksize], key + ksize, vsize

    def walk(self, number, depth=0):
        if depth > 12:
            raise Damaged("page %d: a loop" % number)
        start, end, flags, count = self._page(number)
        if flags == 2:
            yield from self._leaf(start, end, count)
        elif flags == 1:
            for i in range(count):
                at = start + 16 + 16 * i
                yield from self.walk(struct.unpack("<IIQ", self.data[at:at + 16])[2], depth + 1)
        else:
            raise Damaged("page %d: flags %d" % (number, flags))

    def buckets(self):
        for flags, name, at, size in self.walk(self.root):
            if flags & 1:
                yield name, (at, size)

    def values(self, bucket):
        at, size = bucket
        root = struct.unpack("<Q", self.data[at:at + 8])[0]
        if root:
            items = self.walk(root)
        else:
            _, flags, count, _ = struct.unpack("<QHHI", self.data[at + 16:at + 32])
            if flags != 2:
                raise Damaged("an inline bucket: flags %d" % flags)
            items = self._leaf(at + 16, at + size, count)
        for _, key, place, length in items:
            yield key, self.data[place:place + length]


# --- segments: big-endian -------------------------------------------------------------------------------------------


def parse_record(data):
    """A record's header as a dict; its bytes are under "bytes", None when they are not what was written."""
    if len(data) < 64 or data[:4] != b"WBR1" or crc32c(data[:60]) != struct.unpack(">I", data[60:64])[0]:
        raise Damaged("record: header")
    kind, lane, _, epoch, seq, commit, first, last, samples, length, checksum = struct.unpack(">BBHQQQqqIII", data[4:60])
    body = data[64:64 + length]
    return {"kind": chr(kind), "lane": lane, "epoch": epoch, "seq": seq, "commit": commit, "first": first, "last": last,
            "samples": samples, "bytes": body if len(body) == length and crc32c(body) == checksum else None}


def parse_commit(name):
    if len(name) < 36 or name[8:12] != b"WBC1" or crc32c(name[:-4]) != struct.unpack(">I", name[-4:])[0]:
        raise Damaged("commit name")
    commit, _, lane, _, batches, journal, released, _, epoch = struct.unpack(">Q4sBBHHHIQ", name[:32])
    if len(name) != 36 + 32 * batches + 16 * journal + 24 * released:
        raise Damaged("commit name: length")
    at = 32
    c = {"commit": commit, "lane": lane, "epoch": epoch, "batches": [], "journal": [], "released": []}
    for _ in range(batches):
        c["batches"].append(struct.unpack(">QIIqq", name[at:at + 32]))
        at += 32
    for _ in range(journal):
        c["journal"].append(struct.unpack(">QQ", name[at:at + 16]))
        at += 16
    for _ in range(released):
        c["released"].append(struct.unpack(">QQQ", name[at:at + 24]))
        at += 24
    return c


def read_segment(data, lane, number, epochs, last):
    """By its structure: (records, released). Damaged: the way in is not to be trusted."""
    bolt = Bolt(data)
    head, commits, records, released = None, 0, [], []
    for name, bucket in bolt.buckets():
        if head is None:
            if name != b"\0":
                raise Damaged("no segment head")
            value = dict(bolt.values(bucket))[b"\0"]
            summed(value, b"WBS1")
            head = dict(zip(("lane", "epoch", "number", "first", "generation"), struct.unpack(">B7xQQQQ", value[8:48])))
            if (head["lane"], head["number"]) != (lane, number) or epochs and head["epoch"] not in epochs:
                raise Damaged("the file is segment %(number)d of lane %(lane)d, epoch %(epoch)016x" % head)
            continue
        c = parse_commit(name)
        if c["commit"] != head["first"] + commits or (c["lane"], c["epoch"]) != (lane, head["epoch"]):
            raise Damaged("commit %d is out of place" % c["commit"])
        commits += 1
        if last is not None and c["commit"] > last:
            continue
        values = dict(bolt.values(bucket))
        for seq, length, _, _, _ in c["batches"]:
            value = values.get(b"b" + struct.pack(">Q", seq), b"")
            r = parse_record(value)
            if (r["kind"], r["seq"], r["commit"]) != ("b", seq, c["commit"]) or len(value) != 64 + length:
                raise Damaged("batch %d is not in its place" % seq)
            records.append(r)
        records += [parse_record(v) for k, v in values.items() if k[:1] == b"j"]
        released += c["released"]
    if head is None or bolt.txid - 2 != commits:
        raise Damaged("%d commits where transaction %d says %d" % (commits, bolt.txid, bolt.txid - 2))
    return records, released


def search(data, lane, epochs, last):
    """Every record in a damaged file; sound copies before damaged ones."""
    found, at = {}, data.find(b"WBR1")
    while at >= 0:
        try:
            r = parse_record(data[at:at + 64] + data[at + 64:at + 64 + struct.unpack(">I", data[at + 52:at + 56].ljust(4, b"\0"))[0]])
            part = r["bytes"][36:40] if r["kind"] == "j" and r["bytes"] else b""
            key = (r["kind"], r["seq"], r["commit"], part)
            if r["lane"] == lane and (not epochs or r["epoch"] in epochs) and (last is None or r["commit"] <= last):
                if key not in found or found[key]["bytes"] is None:
                    found[key] = r
        except Damaged:
            pass
        at = data.find(b"WBR1", at + 1)
    return list(found.values())


# --- meta -----------------------------------------------------------------------------------------------------------


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        size = struct.calcsize(">" + form)
        values = struct.unpack(">" + form, self.data[self.at:self.at + size])
        self.at += size
        return values[0] if len(values) == 1 else values

    def ranges(self):
        return [self.take("QQ") for _ in range(self.take("I"))]


def parse_meta(data):
    summed(data, b"WBQM")
    c = Cursor(data[8:-4])
    m = {"generation": c.take("Q")}
    flags = c.take("I")
    m["clean"], m["parent_to_tell"] = bool(flags & 1), bool(flags & 2)
    m["last_commit"], m["parent"], m["parent_last"] = c.take("q"), c.take("Q"), list(c.take("4Q"))
    length = c.take("I")
    m["reason"] = c.take("%ds" % length).decode() if length else ""
    m["epochs"] = [(e[0], list(e[1:])) for e in (c.take("5Q") for _ in range(c.take("I")))]
    m["lanes"] = {}
    for lane in LANES:
        ln = dict(zip(("next", "next_commit", "next_segment"), c.take("QQQ")))
        ln["released"], ln["segments"] = c.ranges(), {}
        for _ in range(c.take("I")):
            names = ("number", "epoch", "flags", "first", "last", "file_bytes", "batches", "bytes", "samples", "first_time", "last_time")
            s = dict(zip(names, c.take("9Qqq")))
            s["stored"], s["journal"] = c.ranges(), c.ranges()
            ln["segments"][s["number"]] = s
        m["lanes"][lane] = ln
    if c.at != len(c.data):
        raise Damaged("meta: %d bytes too many" % (len(c.data) - c.at))
    return m


# --- putting it together --------------------------------------------------------------------------------------------


def read_queue(folder, out):
    """Calls out with each line; returns the batches that are to be sent."""
    try:
        with open(os.path.join(folder, "meta"), "rb") as f:
            meta = parse_meta(f.read())
        out({"meta": meta["generation"], "clean": meta["clean"], "parent": "%016x" % meta["parent"], "reason": meta["reason"],
             "epochs": ["%016x" % e for e, _ in meta["epochs"]], "next": {LANES[i]: meta["lanes"][i]["next"] for i in LANES}})
    except FileNotFoundError:
        meta = None
    except (Damaged, struct.error) as e:
        meta = None
        out({"finding": "meta: %s" % e, "file": "meta"})
    epochs = {e for e, _ in meta["epochs"]} if meta else None
    stored, entries, released = {}, [], {lane: [] for lane in LANES}
    for lane, name in LANES.items():
        known = meta["lanes"][lane] if meta else {"released": [], "segments": {}}
        released[lane] += known["released"]
        try:
            files = sorted(f for f in os.listdir(os.path.join(folder, name)) if f.endswith(".seg") and len(f) == 16)
        except FileNotFoundError:
            files = []
        for number in set(known["segments"]) - {int(f[:12]) for f in files}:
            out({"finding": "the segment is missing", "file": "%s/%012d.seg" % (name, number), "seqs": known["segments"][number]["stored"]})
        for file in files:  # oldest first: of a number that is stored twice, the newer copy stands
            number = int(file[:12])
            seg = known["segments"].get(number, {"flags": 0, "last": 0})
            last = seg["last"] if seg["flags"] & 1 else None
            with open(os.path.join(folder, name, file), "rb") as f:
                data = f.read()
            try:
                if seg["flags"] & 2:
                    records = search(data, lane, epochs, last)
                else:
                    records, freed = read_segment(data, lane, number, epochs, last)
                    for of, first, end in freed:
                        released[of].append((first, end))
            except (Damaged, struct.error, KeyError) as e:
                out({"finding": str(e), "file": "%s/%s" % (name, file)})
                records = search(data, lane, epochs, last)
            out({"segment": number, "lane": name, "records": len(records)})
            for r in sorted(records, key=lambda r: r["commit"]):
                if r["kind"] == "b":
                    stored[lane, r["seq"]] = (r, "%s/%s" % (name, file))
                else:
                    entries.append(r)

    def is_released(lane, seq):
        return any(first <= seq <= last for first, last in released[lane])

    send = []
    for (lane, seq), (r, file) in sorted(stored.items()):
        if is_released(lane, seq):
            continue
        if r["bytes"] is None:
            out({"finding": "record: checksum", "file": file, "lane": LANES[lane], "seqs": [[seq, seq]]})
            continue
        send.append(r)
        out({"batch": seq, "lane": LANES[lane], "epoch": "%016x" % r["epoch"], "samples": r["samples"], "first_ns": r["first"],
             "last_ns": r["last"], "length": len(r["bytes"]), "sha256": hashlib.sha256(r["bytes"]).hexdigest()})
    open_batches = {}
    for r in sorted(entries, key=lambda r: (r["lane"], r["seq"], r["commit"])):
        if (r["lane"], r["seq"]) in stored or is_released(r["lane"], r["seq"]):
            continue
        if r["bytes"] is None or len(r["bytes"]) < 40:
            out({"finding": "journal entry: checksum", "lane": LANES[r["lane"]], "seqs": [[r["seq"], r["seq"]]]})
            continue
        boot, count, catalogue, part = struct.unpack(">16sI16sI", r["bytes"][:40])
        parts = open_batches.setdefault((r["lane"], r["seq"]), [])
        parts[:] = [p for p in parts if p["part"] < part or p["commit"] == r["commit"]]
        parts.append({"journal": r["seq"], "lane": LANES[r["lane"]], "epoch": "%016x" % r["epoch"], "part": part, "boot": boot.hex(),
                      "boot_count": count, "catalogue": catalogue.hex(), "commit": r["commit"],
                      "length": len(r["bytes"]) - 40, "sha256": hashlib.sha256(r["bytes"][40:]).hexdigest()})
    for _, parts in sorted(open_batches.items()):
        for p in sorted(parts, key=lambda p: p["part"]):
            del p["commit"]
            out(p)
    return send


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--extract", metavar="OUT")
    options = parser.parse_args()
    findings = 0

    def out(line):
        nonlocal findings
        findings += "finding" in line
        print(json.dumps(line))

    try:
        os.listdir(options.folder)
        send = read_queue(options.folder, out)
        if options.extract:
            os.makedirs(options.extract, exist_ok=True)
            for r in send:
                name = "%s-%016x-%012d.batch" % (LANES[r["lane"]], r["epoch"], r["seq"])
                with open(os.path.join(options.extract, name), "xb") as f:
                    f.write(r["bytes"])
    except (OSError, Newer) as e:
        sys.exit("read_queue.py: %s" % e)
    sys.exit(3 if findings else 0)


if __name__ == "__main__":
    main()
