"""What cantools makes of DBC files: oracle.py SEED PAYLOADS FILE…

For every message of every file so many payloads, full, cut short and too long, with multiplexors set to values that the
file has something for. One JSON object a line: db (the file's number), id, ext, msg, data, sig (physical), raw; or db and
refused, where cantools cannot read the file. NaN and the infinities are strings, as in `can decode`."""
import json
import math
import random
import re
import sys
from collections import Counter

import cantools

FD = (12, 16, 20, 24, 32, 48, 64)


PREFIX = "LETTER_"  # goes before names that begin with a digit


def mend(text):
    """What cantools refuses in files that are in use and costs no frame its meaning: what tells nothing of the layout goes,
    identifiers above 0x7FF get their flag, and numbers and names a form that it knows."""
    text = re.sub(r'^(CM_|VAL_|BA_DEF_|BA_DEF_DEF_|BA_)\s[^"\n]*("[^"]*"[^"\n]*)*$', "", text, flags=re.M)
    text = re.sub(r"^[ \t]*//.*$", "", text, flags=re.M)
    messages = set(re.findall(r"^BO_ (\d+)", text, re.M))
    text = re.sub(r"^SIG_VALTYPE_\s+(\d+).*$", lambda m: m[0] if m[1] in messages else "", text, flags=re.M)
    text = re.sub(r"^BO_ (\d+)[^\n]*\n(\s*SG_ [^\n]*\n)*", lambda m: "" if int(m[1]) & 0x7FFFFFFF > 0x1FFFFFFF else m[0], text, flags=re.M)
    text = re.sub(r"^([ \t]*(?:BO_|SIG_VALTYPE_|SG_MUL_VAL_|BO_TX_BU_|SIG_GROUP_) )(\d+)",
                  lambda m: m[1] + str(int(m[2]) | (1 << 31 if int(m[2]) > 0x7FF else 0)), text, flags=re.M)
    text = re.sub(r"([(,\[|]\s*-?)\.(\d)", r"\g<1>0.\2", text)
    text = re.sub(r"^(\s*(?:BO_ \d+|SG_|SIG_VALTYPE_ \d+|SG_MUL_VAL_ \d+(?: \w+)?) +)(?=\d+[A-Za-z_])", r"\g<1>" + PREFIX, text, flags=re.M)
    text = re.sub(r"^(SG_MUL_VAL_ \d+ )(?=\d+[A-Za-z_])", r"\g<1>" + PREFIX, text, flags=re.M)
    return text


def load(path):
    raw = open(path, "rb").read()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")
    error = None
    for attempt in (text, mend(text)):
        for strict in (True, False):
            try:
                return cantools.database.load_string(attempt, database_format="dbc", strict=strict)
            except Exception as e:  # whatever cantools says: the file is not one for this comparison
                error = e
    return error


def set_bits(data, signal, raw):
    """Writes the low bits of raw where the signal is, most significant bit first."""
    at = signal.start
    if signal.byte_order == "little_endian":
        bits = range(at + signal.length - 1, at - 1, -1)
    else:
        first = 8 * (at // 8) + 7 - at % 8
        bits = (8 * (n // 8) + 7 - n % 8 for n in range(first, first + signal.length))
    for i, bit in enumerate(bits):
        if bit // 8 < len(data):
            data[bit // 8] &= ~(1 << bit % 8) & 0xFF
            data[bit // 8] |= (raw >> (signal.length - 1 - i) & 1) << bit % 8


def payload(rng, message, number):
    """Random bytes: all zeros and all ones first, then full, short and long ones in turn."""
    n = message.length
    if number == 0:
        data = bytearray(n)
    elif number == 1:
        data = bytearray(b"\xff" * n)
    else:
        data = bytearray(rng.randbytes(n))
    if number % 5 == 3 and n > 0:
        data = data[:rng.randrange(n)]
    if number % 5 == 4:
        longer = [k for k in range(n + 1, 9)] + [k for k in FD if k > n]
        if longer:
            data += rng.randbytes(rng.choice(longer) - n)
    for s in message.signals:
        if s.is_multiplexer and rng.random() < 0.9:
            ids = sorted({i for t in message.signals if t.multiplexer_signal == s.name for i in t.multiplexer_ids or []})
            if ids:
                set_bits(data, s, rng.choice(ids))
    return bytes(data)


def plain(v):
    if isinstance(v, float) and not math.isfinite(v):
        return "NaN" if math.isnan(v) else "Infinity" if v > 0 else "-Infinity"
    return v


def vectors(number, db, seed, count):
    uses = Counter((m.frame_id, m.is_extended_frame) for m in db.messages)
    for m in db.messages:
        if uses[m.frame_id, m.is_extended_frame] > 1 or m.length > 64:
            continue
        names = Counter(s.name for s in m.signals)
        if any(names[s.name] > 1 and not s.multiplexer_ids for s in m.signals):
            continue  # of two signals of one name in a frame each reader takes another
        rng = random.Random(f"{seed} {m.frame_id} {m.is_extended_frame}")
        for i in range(count):
            data = payload(rng, m, i)
            try:
                raw = m.decode(data, decode_choices=False, scaling=False, allow_truncated=True, allow_excess=True)
            except Exception:
                continue  # a multiplexor of a value that nothing hangs on, a signal beyond the message
            # Scaled here, one by one: cantools looks a scaled multiplexor's physical value up.
            sig = {s.name: s.conversion.raw_to_scaled(raw[s.name], decode_choices=False) for s in m.signals
                   if s.name in raw and (names[s.name] == 1 or raw[s.multiplexer_signal] in s.multiplexer_ids)}
            yield {"db": number, "id": m.frame_id, "ext": m.is_extended_frame, "msg": m.name.removeprefix(PREFIX), "data": data.hex(),
                   "sig": {k.removeprefix(PREFIX): plain(v) for k, v in sig.items()},
                   "raw": {k.removeprefix(PREFIX): plain(v) for k, v in raw.items()}}


def main():
    seed, count = sys.argv[1], int(sys.argv[2])
    for number, path in enumerate(sys.argv[3:]):
        db = load(path)
        if isinstance(db, Exception):
            print(json.dumps({"db": number, "refused": f"{type(db).__name__}: {str(db)[:200]}"}))
            continue
        for v in vectors(number, db, seed, count):
            print(json.dumps(v))


main()
