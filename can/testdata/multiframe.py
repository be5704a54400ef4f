"""An independent view of the messages of several frames in a candump log: one JSON line a message, {t, bus, id, msg, raw},
in the order of their last frames, values by cantools. usage: multiframe.py FILE.dbc FILE.log

It reads the whole log first and looks for each first frame's followers from there on: another way than that of the
agent, which goes frame by frame. NMEA 2000 fast packets: PGNs of data page 1; J1939: broadcasts (BAM) on page 0. What is
incomplete is left out; {incomplete: n} in the last line counts it where its beginning was seen."""
import collections, json, sys
import cantools

FAST, BROADCAST, PACKET = 'fast', 0xEC, 0xEB

def pgn(identifier):
    return (identifier >> 8) & (0x3FF00 if (identifier >> 16) & 0xFF < 240 else 0x3FFFF)

database = cantools.database.load_file(sys.argv[1], strict=False)
messages = {pgn(m.frame_id): m for m in database.messages if m.length > 8}

streams = collections.defaultdict(list)  # frames that can belong to one message, in order
for number, line in enumerate(open(sys.argv[2])):
    stamp, bus, frame = line.split()[:3]
    identifier, data = frame.split('#')
    if len(identifier) != 8:
        continue
    identifier, data = int(identifier, 16), bytes.fromhex(data)
    seconds, fraction = stamp.strip('()').split('.')
    entry = (number, int(seconds) * 10**9 + int(fraction.ljust(9, '0')), identifier, data)
    if identifier >> 24 & 3 == 1 and pgn(identifier) in messages:
        streams[FAST, bus, identifier & 0x3FFFFFF, data[0] >> 5].append(entry)
    elif identifier >> 24 & 3 == 0 and identifier >> 16 & 0xFF in (BROADCAST, PACKET) and identifier >> 8 & 0xFF == 255:
        streams[BROADCAST, bus, identifier & 0xFF].append(entry)

found, incomplete = [], 0
for (kind, bus, *_), frames in streams.items():
    for i, (_, begun, identifier, data) in enumerate(frames):
        if kind == FAST:
            if data[0] & 31:
                continue
            length, payload, numbers = data[1], data[2:], lambda d: d[0] & 31
        else:
            if identifier >> 16 & 0xFF != BROADCAST or data[0] != 32:
                continue
            length, payload, numbers = data[1] | data[2] << 8, b'', lambda d: d[0]
            group = int.from_bytes(data[5:8], 'little')
            if group not in messages:
                continue
            identifier = identifier & 7 << 26 | group << 8 | identifier & 0xFF
        last, expected = i, 1
        while len(payload) < length and last + 1 < len(frames):
            after = frames[last + 1]
            if numbers(after[3]) != expected or after[1] - frames[last][1] > 750e6 or kind == BROADCAST and after[2] >> 16 & 0xFF != PACKET:
                break
            payload, last, expected = payload + after[3][1:], last + 1, expected + 1
        if len(payload) < length:
            incomplete += 1
            continue
        message = messages[pgn(identifier)]
        raw = message.decode(payload[:length], decode_choices=False, scaling=False, allow_truncated=True)
        found.append((frames[last][0], {'t': frames[last][1], 'bus': bus, 'id': identifier, 'msg': message.name, 'raw': raw}))
for _, row in sorted(found, key=lambda f: f[0]):
    print(json.dumps(row))
print(json.dumps({'incomplete': incomplete}))
