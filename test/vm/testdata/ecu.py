"""Control units that are not ours, on SocketCAN: python-can for frames, can-isotp for messages, udsoncan for responses.
usage: ecu.py INTERFACE READY SERVED. The file READY appears when they listen; SERVED gets a JSON line for each answer:
[unit, request, answer]. An engine (7E0, 7E8) and a transmission (7E1, 7E9) hear OBD on 7DF, a battery (7E4, 7EC) is asked
by UDS."""
import collections, json, sys
import can, isotp, udsoncan
import udsoncan.services as S

interface, ready, served = sys.argv[1:]
bus = can.Bus(interface='socketcan', channel=interface)
received = {}

def send(message):
    bus.send(can.Message(arbitration_id=message.arbitration_id, is_extended_id=False, data=message.data))

# A guest is slow: it is given time.
patient = {'rx_flowcontrol_timeout': 5000, 'rx_consecutive_frame_timeout': 5000, 'tx_padding': 0xAA, 'blocksize': 0}
def unit(request, answer):
    queue = received[request] = collections.deque()
    address = isotp.Address(isotp.AddressingMode.Normal_11bits, rxid=request, txid=answer)
    return isotp.TransportLayerLogic(lambda timeout: queue.popleft() if queue else None, send, address, params=patient)
engine, transmission, battery = unit(0x7E0, 0x7E8), unit(0x7E1, 0x7E9), unit(0x7E4, 0x7EC)
units = engine, transmission, battery

log = open(served, 'w')
def say(name, stack, request, answer):
    if answer is None:
        return
    log.write(json.dumps([name, request.hex().upper(), bytes(answer).hex().upper()]) + '\n')
    log.flush()
    stack.send(bytes(answer))

VIN = b'WVWZZZ1JZ3W386752'
speed = 800

def bitmap(pids, base):
    bits = 0
    for pid in pids:
        if base < pid <= base + 0x20:
            bits |= 1 << (base + 0x20 - pid)
    return bits.to_bytes(4, 'big')

class OBD:
    """One unit's answers: current data by PID, freeze frame, codes by mode."""
    def __init__(self, current, freeze, codes, vin=None):
        self.current, self.freeze, self.codes, self.vin = current, freeze, codes, vin
    def answer(self, request):
        mode, rest = request[0], request[1:]
        if mode == 1:
            out = b''.join(bytes([p]) + self.data(self.current, p) for p in rest if self.data(self.current, p) is not None)
            return b'\x41' + out if out else None
        if mode == 2:
            pairs = [p for p in rest[0::2]]
            out = b''.join(bytes([p, 0]) + self.data(self.freeze, p) for p in pairs if self.data(self.freeze, p) is not None)
            return b'\x42' + out if out else None
        if mode in (3, 7, 10) and mode in self.codes:
            codes = self.codes[mode]
            return bytes([mode + 0x40, len(codes)]) + b''.join(c.to_bytes(2, 'big') for c in codes)
        if mode == 9 and rest == b'\x02' and self.vin:
            return b'\x49\x02\x01' + self.vin
        return None
    def data(self, table, pid):
        if pid % 0x20 == 0:
            have = list(table)
            if any(p > pid + 0x20 for p in have):
                have += [b for b in range(pid + 0x20, max(have), 0x20)]
            return bitmap(have, pid) if pid == 0 or any(p > pid for p in table) else None
        value = table.get(pid)
        return value() if callable(value) else value

def turning():
    global speed
    speed += 7
    return (speed * 4).to_bytes(2, 'big')

engine_obd = OBD({0x04: b'\x55', 0x05: b'\x7B', 0x0C: turning, 0x0D: b'\x2A', 0x0F: b'\x31', 0x11: b'\x40', 0x2F: b'\x99', 0x46: b'\x3C'},
                 {0x02: b'\x01\x23', 0x05: b'\x5A', 0x0C: b'\x1A\xF8', 0x0D: b'\x14'},
                 {3: [0x0123, 0xC158], 7: [0x0420], 10: []}, VIN)
transmission_obd = OBD({0x0C: b'\x00\x00', 0x0D: b'\xFF'}, {}, {3: []})

SNAPSHOT = bytes.fromhex('0102' '0101' 'AABBCC' '0202' '11223344') # record 1 with two identifiers
def uds(request):
    service, rest = request[0], request[1:]
    def positive(cls, data):
        return udsoncan.Response(cls, udsoncan.Response.Code.PositiveResponse, data).get_payload()
    def negative(cls, code):
        return udsoncan.Response(cls, code).get_payload()
    if service == 0x22:
        if rest == b'\xF1\x90':
            return positive(S.ReadDataByIdentifier, rest + VIN)
        if rest == b'\x01\x01':
            return positive(S.ReadDataByIdentifier, rest + bytes.fromhex('00' '02EE' 'FB' '0102030405'))
        return negative(S.ReadDataByIdentifier, udsoncan.Response.Code.RequestOutOfRange)
    if service == 0x19 and rest[0] == 2:
        return positive(S.ReadDTCInformation, bytes([2, 0xFF]) + bytes.fromhex('01231C' '2F' '9A0102' '08'))
    if service == 0x19 and rest[0] == 4:
        if rest[1:4] == bytes.fromhex('01231C'):
            return positive(S.ReadDTCInformation, b'\x04' + rest[1:4] + b'\x2F' + SNAPSHOT)
        return negative(S.ReadDTCInformation, udsoncan.Response.Code.RequestOutOfRange)
    return negative(S.TesterPresent, udsoncan.Response.Code.ServiceNotSupported)

open(ready, 'w').close()
while True:
    message = bus.recv(0.05)
    if message is not None and not message.is_extended_id:
        if message.arbitration_id in received:
            received[message.arbitration_id].append(isotp.CanMessage(message.arbitration_id, data=message.data))
        if message.arbitration_id == 0x7DF and message.data[0] < 8:
            request = bytes(message.data[1:1 + message.data[0]])
            say('7E9', transmission, request, transmission_obd.answer(request))
            say('7E8', engine, request, engine_obd.answer(request))
    for one in units:
        one.process()
        while one.available():
            request = bytes(one.recv())
            if one is not battery:
                continue
            if request == b'\x22\x01\x01':  # asks for time first
                battery.send(b'\x7F\x22\x78')
            say('7EC', battery, request, uds(request))
        one.process()
