#!/usr/bin/env python3
"""Reads what Waybill publishes and prints its samples, with nothing but Python's standard library.

    decode_batch.py [--bits] < payload-or-batch

One line a sample: device, lane, seq, signal, CLOCK_BOOTTIME in ns, kind, value. --bits prints numbers as the 16
hexadecimal digits of their 64 bits, and texts as the hexadecimal digits of their bytes. Written from
proto/FORMAT.md, whose sections are named below. Batches of records are skipped, and said so.
"""
import struct
import sys

M64 = (1 << 64) - 1
INT, UINT, FLOAT, STRING, MIXED = 1, 2, 3, 4, 5
KINDS = {INT: "int", UINT: "uint", FLOAT: "float", STRING: "string"}
MOST_SAMPLES = 1 << 20


class Malformed(Exception):
    """The bytes are not what FORMAT.md says."""


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


def batch_samples(b):
    """(envelope, samples) of a batch; samples is None where the body is no columns."""
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
    if head.get(2, 0) > 1:
        raise Malformed("for a newer reader")
    if head.get(14) != 2:
        return head, None
    return head, Body(body).samples()


# --- 3.1 Decisions ------------------------------------------------------------------------------------------------

class Decisions:
    def __init__(self, b):
        self.b, self.at, self.code, self.width = b, 0, 0, (1 << 32) - 1
        for _ in range(4):
            self.take()

    def take(self):
        if self.at >= len(self.b) + 3:
            raise Malformed("body too short")
        byte = self.b[self.at] if self.at < len(self.b) else 0
        self.at += 1
        self.code = self.code << 8 & 0xFFFFFFFF | byte

    def grow(self):
        while self.width < 1 << 24:
            self.width <<= 8
            self.take()

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
        self.grow()
        return bit

    def plain(self, n):
        value = 0
        while n > 0:
            step = min(n, 12)
            n -= step
            self.width >>= step
            part = min(self.code // self.width, (1 << step) - 1)
            self.code -= part * self.width
            self.grow()
            value = value << step | part
        return value


# --- 3.2 Numbers --------------------------------------------------------------------------------------------------

class Model:
    def __init__(self):
        self.length = [[32768, 0] for _ in range(13)]
        self.top = [[[32768, 0] for _ in range(3)] for _ in range(14)]


def unzigzag(u):
    return u >> 1 ^ -(u & 1)


class Body:
    def __init__(self, b):
        if b[:1] != b"\x01":
            raise Malformed("body of another version")
        self.d, self.models = Decisions(b[1:]), {}

    def number(self, name):
        model = self.models.setdefault(name, Model())
        n = 0
        while n < 13 and self.d.decide(model.length[n]):
            n += 1
        if n < 2:
            return n
        top = model.top[n]
        if n == 13:
            n += self.d.plain(6)
            if n > 64:
                raise Malformed("number of more than 64 bits")
        first = self.d.decide(top[0])
        if n == 2:
            return 2 + first
        second = self.d.decide(top[1 + first])
        return (4 + 2 * first + second) << (n - 3) | self.d.plain(n - 3)

    def signed(self, name):
        return unzigzag(self.number(name))

    # --- 3.3 Body -------------------------------------------------------------------------------------------------

    def samples(self):
        """All samples as (signal, time, kind, value): values are 64 bits, texts bytes."""
        out, signal, columns, now = [], 0, [], None
        for _ in range(self.number("columns")):
            signal += self.number("id") + 1
            which = self.number("times")
            if which == 1:
                columns.append(self.times(columns))
                now = len(columns) - 1
            elif which > 1:
                now = which - 2
            if now is None or now >= len(columns) or len(out) + len(columns[now]) > MOST_SAMPLES:
                raise Malformed("no such times, or too many samples")
            kind = self.number("kind")
            for time, (kind, value) in zip(columns[now], self.values(kind, len(columns[now]))):
                out.append((signal, time, kind, value))
        if self.d.at != len(self.d.b) + 3:
            raise Malformed("bytes left over")
        return out

    # --- 3.4 Time column ------------------------------------------------------------------------------------------

    def times(self, columns):
        n = self.number("count") + 1
        unit = self.number("unit")
        if n > MOST_SAMPLES or unit > 9:
            raise Malformed("too many times, or no such unit")
        before = columns[-1][0] if columns else 0
        origin = abs(before) // 10 ** unit * (1 if before >= 0 else -1)
        return [signed(v) * 10 ** unit for v in self.integers("at", n, origin)]

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
            for _ in range(self.number("texts") + 1):
                texts.append(bytes(self.d.plain(8) for _ in range(self.number("text"))))
            return [(kind, texts[v]) for v in self.integers("values", n, 0)]
        if kind != MIXED:
            raise Malformed("kind %d" % kind)
        kinds = self.integers("values", n, 0)
        parts = {k: iter(self.values(k, kinds.count(k))) for k in (INT, UINT, FLOAT, STRING) if k in kinds}
        return [next(parts[k]) for k in kinds]

    # --- 3.6 Integer column ---------------------------------------------------------------------------------------

    def integers(self, models, n, origin):
        order = self.number(models + ".order")
        first = self.signed(models + ".first") + origin & M64
        if order == 0:
            return [first] * n
        if order > min(3, n):
            raise Malformed("order %d" % order)
        memory = self.number(models + ".memory")
        v, drift, turn = [first], 0, 0
        if order == 1:
            drift = self.signed(models + ".drift")
        if order == 3:
            turn = 32768 - self.number(models + ".bend")
        if order > 1:
            v.append(v[0] + self.signed(models + ".slope") & M64)
        if order == 3:
            v.append(self.signed(models + ".turn") + 2 * v[1] - v[0] & M64)
        d1 = signed(v[-1] - v[-2]) if order > 1 else 0
        d2 = signed(v[1] - v[0]) if order > 2 else 0
        e1 = e2 = e3 = 0
        gain = turn + 16384
        for i, r in enumerate(self.residuals(models, n - order), order):
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

    # --- 3.7 Residuals --------------------------------------------------------------------------------------------

    def residuals(self, models, n):
        if n == 0:
            return
        start = self.number(models + ".start")
        mean = start if start < 2 else 3 << (start - 2)
        for _ in range(n):
            bits = mean.bit_length()
            below = mean >> (bits - 2) & 1 if bits > 1 else 0
            low = max(bits - 9, 0)
            u = self.number("%s.%d" % (models, 2 * min(bits, 9) + below)) << low
            u |= self.d.plain(low)
            if u > M64:
                raise Malformed("residual of more than 64 bits")
            yield unzigzag(u)
            mean += ((min(u, 16 * (mean >> 8) + 16, (1 << 48) - 1) << 8) - mean) >> 4


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
        head, samples = batch_samples(batch)
        name = "%s,%d,%d" % (head.get(4, b"").decode(), head.get(6, 0), head.get(7, 0))
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
