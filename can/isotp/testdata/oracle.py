"""What the can-isotp package puts together from a candump log, and what cantools decodes of it: one JSON line a message,
{id, ns, data, signals}.
usage: oracle.py FILE.dbc FILE.log ID… Each ID is listened to by a stack of its own, which sends nothing. The DBC describes
a message with its length in front; a message that no DBC entry has is printed without signals."""
import json, sys
import cantools, isotp

database = cantools.database.load_file(sys.argv[1])
stacks = {}
for text in sys.argv[3:]:
    inbox = []
    address = isotp.Address(isotp.AddressingMode.Normal_11bits, rxid=int(text, 16), txid=0x7FF)
    stacks[text] = (inbox, isotp.TransportLayerLogic(
        rxfn=lambda timeout, inbox=inbox: inbox.pop(0) if inbox else None,
        txfn=lambda message: None,
        address=address, params={'listen_mode': True}))
for line in open(sys.argv[2]):
    stamp, bus, frame = line.split()[:3]
    identifier, data = frame.split('#')
    if identifier not in stacks:
        continue
    inbox, stack = stacks[identifier]
    inbox.append(isotp.CanMessage(arbitration_id=int(identifier, 16), data=bytes.fromhex(data), extended_id=False))
    stack.process()
    message = stack.recv()
    if message is None:
        continue
    seconds, fraction = stamp.strip('()').split('.')
    signals = {}
    if int(identifier, 16) in [m.frame_id for m in database.messages]:
        try:
            signals = database.decode_message(int(identifier, 16), bytes([len(message)]) + bytes(message),
                                              decode_choices=False, allow_truncated=True)
        except cantools.database.errors.DecodeError:
            pass
    print(json.dumps({'id': identifier, 'ns': int(seconds) * 10**9 + int(fraction.ljust(9, '0')),
                      'data': bytes(message).hex(), 'signals': signals}))
