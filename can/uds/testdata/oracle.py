"""What the udsoncan package makes of requests and responses: one JSON line each. Standard input has nothing to say."""
import json, random
import udsoncan
from udsoncan.services import ReadDTCInformation as D, ReadDataByIdentifier as R

random.seed(2)
class Raw(udsoncan.DidCodec):
    def __init__(self, n): self.n = n
    def encode(self, v): return bytes(v)
    def decode(self, b): return bytes(b).hex()
    def __len__(self): return self.n
dids = {0xF190: Raw(17), 0x1001: Raw(2), 0x1002: Raw(5)}
def show(**fields): print(json.dumps(fields))
def response(data): return udsoncan.Response.from_payload(bytes(data))
def rnd(n): return [random.randrange(1, 256) for _ in range(n)]
def status(d): return {n: getattr(d.status, n) for n in vars(d.status)}

show(request='data', want=R.make_request([0xF190, 0x1001], dids).get_payload().hex())
show(request='count', want=D.make_request(subfunction=1, status_mask=0x0D).get_payload().hex())
show(request='list', want=D.make_request(subfunction=2, status_mask=0x0D).get_payload().hex())
show(request='snapshot', want=D.make_request(subfunction=4, dtc=0x123456, snapshot_record_number=0xFF).get_payload().hex())
show(request='extended', want=D.make_request(subfunction=6, dtc=0x123456, extended_data_record_number=1).get_payload().hex())
for _ in range(50):
    raw = [0x62, 0x10, 1] + rnd(2) + [0x10, 2] + rnd(5)
    v = R.interpret_response(response(raw), [0x1001, 0x1002], dids).service_data.values
    show(kind='data', raw=bytes(raw).hex(), values=[v[0x1001], v[0x1002]])
    raw = [0x59, 1, random.randrange(256), 1] + rnd(2)
    show(kind='count', raw=bytes(raw).hex(), count=D.interpret_response(response(raw), subfunction=1).service_data.dtc_count)
    raw = [0x59, 2, 0xFF] + rnd(4 * random.randrange(5))
    d = D.interpret_response(response(raw), subfunction=2).service_data.dtcs
    show(kind='list', raw=bytes(raw).hex(), dtcs=[x.id for x in d], bytes=[x.status.get_byte_as_int() for x in d],
         bits=[sum(1 for b in status(x).values() if b) for x in d], confirmed=[x.status.confirmed for x in d],
         warning=[x.status.warning_indicator_requested for x in d], pending=[x.status.pending for x in d])
    raw = [0x59, 4] + rnd(4) + [1, 1, 0x10, 1] + rnd(2) + [2, 2, 0x10, 2] + rnd(5) + [0x10, 1] + rnd(2)
    d = D.interpret_response(response(raw), subfunction=4, didconfig=dids).service_data.dtcs[0]
    show(kind='snapshot', raw=bytes(raw).hex(), dtcs=[d.id],
         values=['%02x%04x%s' % (s.record_number, s.did, s.data) for s in d.snapshots])
    raw = [0x59, 6] + rnd(4) + [3] + rnd(4)
    d = D.interpret_response(response(raw), subfunction=6, extended_data_size=4).service_data.dtcs[0]
    show(kind='extended', raw=bytes(raw).hex(), dtcs=[d.id],
         values=['%02x%s' % (s.record_number, bytes(s.raw_data).hex()) for s in d.extended_data])
for code in range(256):
    try:
        show(kind='negative', code=code, name=udsoncan.ResponseCode.get_name(code) or '')
    except Exception:
        pass
