#!/usr/bin/env python3
"""Reads what Waybill publishes and prints its samples, with nothing but Python's standard library.

    decode_batch.py [--bits] < payload-or-batch

One line a sample: device, lane, seq, signal, CLOCK_BOOTTIME in ns, kind, value. --bits prints numbers as the 16
hexadecimal digits of their 64 bits, and texts as the hexadecimal digits of their bytes. Written from
proto/FORMAT.md, whose sections are named below. Batches of records and those for a newer reader are skipped, and said so.
"""
import struct
import sys

M64 = (1 << 64) - 1
INT, UINT, FLOAT, STRING, MIXED = 1, 2, 3, 4, 5
KINDS = {INT: "int", UINT: "uint", FLOAT: "float", STRING: "string"}
MOST_SAMPLES = 1 << 20


class Malformed(Exception):
    """The bytes are not what FORMAT.md says."""


class Newer(Exception):
    """The bytes are for a reader that knows more: keep them."""


def signed(v):
    """The 64 low bits of v, in two's complement."""
    v &= M64
    return v - (1 << 64) if v >> 63 else v


# --- 2. Batch -----------------------------------------------------------------------------------------------------

def varint(b, at):
    value = shift = 0
    while True:
        if at >= len(b) or shift > 63:
            raise Malformed("varint cut off or too long")
        value |= (b[at] & 127) << shift
        at += 1
        if b[at - 1] < 128:
            return value, at
        shift += 7


def fields(b):
    """The fields of a protobuf message: number, value (an integer or bytes)."""
    at = 0
    while at < len(b):
        tag, at = varint(b, at)
        wire = tag & 7
        if wire == 0:
            value, at = varint(b, at)
        else:
            if wire == 2:
                n, at = varint(b, at)
            else:
                n = {1: 8, 5: 4}.get(wire, 1 << 62)
            value, at = b[at:at + n], at + n
        if at > len(b):
            raise Malformed("field %d cut off" % (tag >> 3))
        yield tag >> 3, value


def crc32c(b):
    crc = 0xFFFFFFFF
    for byte in b:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def open_batch(b):
    """The envelope's fields and the body of a batch whose checksum holds."""
    if b[:1] != b"\x0a":
        raise Malformed("no batch")
    n, at = varint(b, 1)
    envelope, at = b[at:at + n], at + n
    if b[at:at + 1] != b"\x12":
        raise Malformed("no body")
    n, at = varint(b, at + 1)
    body = b[at:]
    if len(body) != n or envelope[-6:-4] != b"\xfd\x01":
        raise Malformed("wrong lengths")
    if crc32c(envelope[:-6] + body) != struct.unpack("<I", envelope[-4:])[0]:
        raise Malformed("wrong checksum")
    head = dict(fields(envelope))
    return head, body


def body_samples(head, body):
    """The samples of a batch; None where its body is no columns."""
    if head.get(2, 0) > 1 or head.get(16, 0) != 0 or head.get(14, 0) > 2:
        raise Newer("min_reader %d, codec %d, cipher %d" % (head.get(2, 0), head.get(14, 0), head.get(16, 0)))
    return Body(body).samples() if head.get(14) == 2 else None


# --- 3.1 Decisions ------------------------------------------------------------------------------------------------

class Decisions:
    def __init__(self, b):
        n, at = varint(b, 0)
        if n > len(b) - at or at > 1 and b[at - 1] == 0:
            raise Malformed("no plain bits")
        self.bits, self.left = int.from_bytes(b[at:at + n], "little"), 8 * n
        self.b, self.at, self.code, self.width = b[at + n:], 0, 0, (1 << 32) - 1
        for _ in range(4):
            self.take()

    def take(self):
        if self.at >= len(self.b) + 3:
            raise Malformed("body too short")
        byte = self.b[self.at] if self.at < len(self.b) else 0
        self.at += 1
        self.code = self.code << 8 & 0xFFFFFFFF | byte

    def decide(self, chance):
        p, count = chance
        below = (self.width >> 12) * (p >> 4)
        rate = (count + 1).bit_length()
        if self.code < below:
            bit, self.width = 0, below
            p += (65535 - p) >> rate
        else:
            bit = 1
            self.code -= below
            self.width -= below
            p -= p >> rate
        chance[0], chance[1] = p, min(count + 1, 31)
        while self.width < 1 << 24:
            self.width <<= 8
            self.take()
        return bit

    def plain(self, n):
        if n > self.left:
            raise Malformed("too few plain bits")
        value = self.bits & ((1 << n) - 1)
        self.bits >>= n
        self.left -= n
        return value

    def end(self):
        if self.at != len(self.b) + 3 or self.left > 7 or self.bits:
            raise Malformed("bytes left over")


# --- 3.2 Numbers --------------------------------------------------------------------------------------------------

class Model:
    """The chances of a model, each made when it is first used."""

    def __init__(self):
        self.chances = {}

    def __getitem__(self, place):
        return self.chances.setdefault(place, [32768, 0])


def unzigzag(u):
    return u >> 1 ^ -(u & 1)


class Body:
    def __init__(self, b):
        if not b or b[0] == 0:
            raise Malformed("body of no version")
        if b[0] > 1:
            raise Newer("body of version %d" % b[0])
        self.d, self.models = Decisions(b[1:]), {}

    def model(self, name):
        return self.models.setdefault(name, Model())

    def number(self, name, more=0):
        """N(name), with so many more plain bits"""
        model, n = self.model(name), 0
        while n < 13 and self.d.decide(model["L", n]):
            n += 1
        if n < 2:
            return n << more | self.d.plain(more)
        second = model["T", n]
        if n == 13:
            n += self.d.plain(6)
        top = 2 | self.d.decide(second)
        if n + more > 64:
            raise Malformed("number of more than 64 bits")
        return top << (n - 2 + more) | self.d.plain(n - 2 + more)

    def length(self, name):
        """L(name)"""
        model, k = self.model(name), 1
        for _ in range(4):
            k = 2 * k + self.d.decide(model[k])
        n = k - 16
        if n == 15:
            n += self.d.plain(6)
        if n > 64:
            raise Malformed("length above 64")
        return n

    def wide(self, name):
        """W(name)"""
        n = self.length(name)
        return n if n < 2 else 1 << (n - 1) | self.d.plain(n - 1)

    def signed(self, name):
        """S(name)"""
        return unzigzag(self.wide(name))

    # --- 3.3 Body -------------------------------------------------------------------------------------------------

    def samples(self):
        """All samples as (signal, time, kind, value): values are 64 bits, texts bytes."""
        out, signal, now, kind = [], 0, None, INT
        self.columns, self.bases, self.unit, self.first = [], [], 0, 0
        self.shapes = {"at": (1, 0), "values": (1, 0)}
        self.dictionary = None
        for _ in range(self.wide("columns")):
            signal += self.number("id") + 1
            now = self.times(now)
            if len(out) + len(now) > MOST_SAMPLES:
                raise Malformed("too many samples")
            step = self.number("kind")
            kind = (kind - 1 + step) % 5 + 1
            if step > 4:
                raise Malformed("kind +%d" % step)
            if kind in (INT, UINT):
                values = [(kind, v) for v in self.integers("values", len(now), 0, now)]
            else:
                values = self.values(kind, len(now))
            for time, (of, value) in zip(now, values):
                out.append((signal, time, of, value))
        self.d.end()
        return out

    # --- 3.4 Times ------------------------------------------------------------------------------------------------

    def times(self, before):
        which = self.number("times")
        if which == 3:
            self.new_times()
            which = self.number("times")
        if which == 0 and before is not None:
            return before
        if which == 1:
            self.new_times()
        elif which == 2:
            self.part()
        elif which < 4 or which - 4 >= len(self.columns):
            raise Malformed("no such times")
        return self.columns[which - 4 if which > 3 else -1]

    def keep(self, times):
        if sum(map(len, self.columns)) + len(times) > 2 * MOST_SAMPLES:
            raise Malformed("too many times")
        self.columns.append(times)

    def new_times(self):
        n = self.wide("count") + 1
        step = self.number("unit")
        if n > MOST_SAMPLES or step > 9:
            raise Malformed("too many times, or no such unit")
        self.unit = (self.unit + step) % 10
        origin = abs(self.first) // 10 ** self.unit * (1 if self.first >= 0 else -1)
        times = [signed(v) * 10 ** self.unit for v in self.integers("at", n, origin)]
        self.keep(times)
        self.bases.append(times)
        self.first = times[0]

    def part(self):
        back = self.number("base")
        if back >= len(self.bases):
            raise Malformed("no such base")
        base, at, times = self.bases[-1 - back], 0, []
        n = self.wide("part") + 1
        if n > len(base):
            raise Malformed("more times than the base has")
        for gap in self.list("gaps", n, (len(base) - n << 8) // n):
            at += gap
            if at >= len(base):
                raise Malformed("no such time in the base")
            times.append(base[at])
            at += 1
        self.keep(times)

    # --- 3.5 Values -----------------------------------------------------------------------------------------------

    def values(self, kind, n):
        if kind in (INT, UINT):
            return [(kind, v) for v in self.integers("values", n, 0)]
        if kind == FLOAT:
            decimals = self.number("decimals")
            if decimals == 15:
                zeros = self.number("zeros")
                return [(kind, v << zeros & M64) for v in self.integers("values", n, 0)]
            power = float(10 ** decimals)
            return [(kind, struct.unpack(">Q", struct.pack(">d", float(signed(v)) / power))[0])
                    for v in self.integers("values", n, 0)]
        if kind == STRING:
            texts = []
            for _ in range(self.wide("texts") + 1):
                texts.append(bytes(self.d.plain(8) for _ in range(self.wide("text"))))
            return [(kind, texts[v]) for v in self.integers("values", n, 0)]
        if kind != MIXED:
            raise Malformed("kind %d" % kind)
        kinds = self.integers("values", n, 0)
        parts = {k: iter(self.values(k, kinds.count(k))) for k in (INT, UINT, FLOAT, STRING) if k in kinds}
        return [next(parts[k]) for k in kinds]

    # --- 3.6 Integer column ---------------------------------------------------------------------------------------

    def integers(self, models, n, origin, times=None):
        same = self.number(models + ".same")
        order, memory = self.shapes[models]
        if same == 1:
            order = self.number(models + ".order")
            if order in (4, 5) and times is not None and n >= 64:
                return self.entries(n, times) if order == 4 else self.keyed(n, times)
        if same > 1 or order > min(3, n):
            raise Malformed("order %d" % order)
        first = self.signed(models + ".first") + origin & M64
        if order and same == 1:
            memory = self.number(models + ".memory")
        self.shapes[models] = order, memory
        if order == 0:
            return [first] * n
        v, drift, turn = [first], 0, 0
        if order == 1 and same == 1:
            drift = unzigzag(self.number(models + ".drift"))
        if order == 3:
            turn = 32768 - self.wide(models + ".bend")
        if order > 1:
            v.append(v[0] + self.signed(models + ".slope") & M64)
        if order == 3:
            v.append(self.signed(models + ".turn") + 2 * v[1] - v[0] & M64)
        d1 = signed(v[-1] - v[-2]) if order > 1 else 0
        d2 = signed(v[1] - v[0]) if order > 2 else 0
        e1 = e2 = e3 = 0
        gain = turn + 16384
        for i, u in enumerate(self.residuals(models, n - order), order):
            r = unzigzag(u)
            k = 65536 - order * 65536 // i if i < order << memory else 65536 - (65536 >> memory)
            k2 = k * k >> 16
            k3 = k2 * k >> 16
            if order == 1:
                p = (drift << 8) - (signed(e1 * k) >> 16)
            elif order == 2:
                p = (d1 << 8) + (signed(e2 * k2 - 2 * e1 * k) >> 16)
            else:
                noise = e2 * (gain * k2 >> 14) - e1 * (gain * k >> 14) - e3 * k3
                p = (signed(turn * d1) >> 6) - (d2 << 8) + (signed(noise) >> 16)
            p = signed(p)
            d = signed(r + (signed(p + 128) >> 8))
            v.append(v[-1] + d & M64)
            d1, d2 = d, d1
            e1, e2, e3 = signed((d << 8) - p), e1, e2
        return v

    def residuals(self, models, n):
        if n == 0:
            return []
        start = self.length(models + ".start")
        if start > 50:
            raise Malformed("start above 50")
        return self.list(models, n, 3 << (start + 4) if start else 8)

    # --- 3.7 Lists ------------------------------------------------------------------------------------------------

    def list(self, models, n, mean):
        for _ in range(n):
            bits = mean.bit_length()
            below = mean >> (bits - 2) & 1 if bits > 1 else 0
            u = self.number("%s.scale%d" % (models, 2 * min(bits, 8) + below), max(bits - 8, 0))
            yield u
            mean += ((min(u, 16 * (mean >> 8) + 16, (1 << 48) - 1) << 8) - mean) >> 4

    # --- 3.8 Dictionary -------------------------------------------------------------------------------------------

    def entries(self, n, times):
        count = self.wide("values.entries") + 1
        if count > min(1024, n):
            raise Malformed("too many entries")
        entries = [self.signed("values.first") & M64]
        for u in self.residuals("values", count - 1):
            entries.append(entries[-1] + u + 1 & M64)
        depth, model = (count - 1).bit_length(), Model()
        follows = [(0, 0, 7)] * count
        last, indices = 0, []
        for _ in range(n):
            first, second, past = follows[last]
            if self.d.decide(model["first", past]) == 0:
                index = first
            elif self.d.decide(model["second", past]) == 0:
                index = second
            else:
                index = self.tree(model, "index", depth)
                if index >= count:
                    raise Malformed("no such entry")
            if index == first:
                follows[last] = first, second, 2 * past & 7
            else:
                follows[last] = index, first, 2 * past & 7 | 1
            indices.append(index)
            last = index
        self.dictionary = times, indices
        return [entries[index] for index in indices]

    def tree(self, model, name, depth):
        k = 1
        for _ in range(depth):
            k = 2 * k + self.d.decide(model[name, k])
        return k - (1 << depth)

    # --- 3.9 Keyed column -----------------------------------------------------------------------------------------

    def keyed(self, n, times):
        how, width, model = self.number("values.keys"), self.number("values.width"), Model()
        if how > 1 or how == 0 and self.dictionary is None or not 1 <= width <= 8:
            raise Malformed("keyed by nothing, or of no width")
        keys = [0] * n
        if how == 0:
            of, indices = self.dictionary
            if len(of) // 16 > n:
                raise Malformed("keyed by too much")
            at = 0
            for i, time in enumerate(times):
                while at < len(of) and of[at] != time:
                    at += 1
                if at == len(of):
                    raise Malformed("no key at this time")
                keys[i] = indices[at]
                at += 1
        known, out = {}, []
        for key in keys:
            word, past = known.setdefault(key, ([0] * 8, [0] * 8))
            above = 0
            for b in range(width - 1, -1, -1):
                changed = self.d.decide(model["changed", b, past[b], above])
                if changed:
                    word[b] = word[b] + self.tree(model, b, 8) & 255
                past[b] = 2 * past[b] & 7 | changed
                above = 2 * above & 3 | changed
            out.append(int.from_bytes(bytes(word), "little"))
        return out


# --- 1. Payload ---------------------------------------------------------------------------------------------------

def batches(b):
    return [b] if b[:1] == b"\x0a" else [value for number, value in fields(b) if number == 2]


def shown(kind, value):
    if kind == INT:
        return str(signed(value))
    if kind == FLOAT:
        return repr(struct.unpack(">d", struct.pack(">Q", value))[0])
    return value.decode("utf-8", "replace") if kind == STRING else str(value)


def main():
    as_bits = sys.argv[1:] == ["--bits"]
    for batch in batches(sys.stdin.buffer.read()):
        head, body = open_batch(batch)
        name = "%s,%d,%d" % (head.get(4, b"").decode(), head.get(6, 0), head.get(7, 0))
        try:
            samples = body_samples(head, body)
        except Newer as error:
            print("batch %s: for a newer reader: %s" % (name, error), file=sys.stderr)
            continue
        if samples is None:
            print("batch %s: no columns" % name, file=sys.stderr)
            continue
        for signal, time, kind, value in samples:
            if as_bits:
                text = value.hex() if kind == STRING else "%016x" % value
            else:
                text = shown(kind, value)
            print(name, signal, time, KINDS[kind], text, sep=",")


if __name__ == "__main__":
    try:
        main()
    except Malformed as error:
        sys.exit("malformed: %s" % error)
