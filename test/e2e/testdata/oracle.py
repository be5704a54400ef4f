"""What cantools decodes of a candump log of J1939 traffic: one JSON line a signal, {t, bus, name, value}.
usage: oracle.py FILE.dbc FILE.log. The PGN is matched as SAE J1939-21 §5.2 has it: PF below 240 is followed by a
destination, which is no part of it; priority and source never are."""
import json, sys
import cantools

def pgn(identifier):
    return (identifier >> 8) & (0x3FF00 if (identifier >> 16) & 0xFF < 240 else 0x3FFFF)

database = cantools.database.load_file(sys.argv[1])
messages = {pgn(m.frame_id): m for m in database.messages}
for line in open(sys.argv[2]):
    stamp, bus, frame = line.split()[:3]
    identifier, data = frame.split('#')
    if len(identifier) != 8 or pgn(int(identifier, 16)) not in messages:
        continue
    message = messages[pgn(int(identifier, 16))]
    seconds, fraction = stamp.strip('()').split('.')
    values = message.decode(bytes.fromhex(data), decode_choices=False, allow_truncated=True)
    for signal, value in values.items():
        print(json.dumps({'t': int(seconds) * 10**9 + int(fraction.ljust(9, '0')), 'bus': bus,
                          'name': f'{bus}.{message.name}.{signal}', 'value': value}))
