"""What the py-obdii package makes of mode 01 and of trouble codes: one JSON line each, {pid, len, data, values} for data of
every PID that it has a formula for, {pid, len} for the others, {code, text} for trouble codes."""
import inspect, json, random
from obdii.modes.mode_01 import Mode01
from obdii.parsers.dtc import DTC
from obdii.parsers.formula import Formula, MultiFormula

random.seed(1)
for _, command in inspect.getmembers(Mode01):
    if not hasattr(command, 'pid'):
        continue
    print(json.dumps({'pid': command.pid, 'len': command.expected_bytes}))
    if not isinstance(command.resolver, (Formula, MultiFormula)):
        continue
    n = command.expected_bytes
    for data in [[0] * n, [255] * n, [128] * n] + [[random.randrange(256) for _ in range(n)] for _ in range(20)]:
        values = command.resolver(data)
        print(json.dumps({'pid': command.pid, 'len': n, 'data': bytes(data).hex(),
                          'values': list(values) if isinstance(values, (list, tuple)) else [values]}))
for code in range(0, 65536, 37):
    print(json.dumps({'code': code, 'text': str(DTC.from_bytes(code >> 8, code & 255))}))
