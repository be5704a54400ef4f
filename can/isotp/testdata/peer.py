"""An ISO-TP stack that is not ours: the can-isotp package over candump lines on standard input and output.
usage: peer.py JSON, with rxid, txid, and optionally mode (an isotp.AddressingMode), target, source, and params of the
stack. Each message is answered with its bytes in reverse order. A line of other words than a frame ends it. It says
'ready' first; errors that the stack reports are lines that begin with '!'."""
import json, queue, sys, threading
import isotp

options = json.loads(sys.argv[1])
received = queue.Queue()
lock = threading.Lock()

def say(text):
    with lock:
        sys.stdout.write(text + '\n')
        sys.stdout.flush()

def receive(timeout):
    try:
        return received.get(timeout=timeout or 0.001)
    except queue.Empty:
        return None

def send(message):
    digits = 8 if message.is_extended_id else 3
    flags = '#%d' % (1 if message.bitrate_switch else 0) if message.is_fd else ''
    say('(0.000000) can0 %0*X#%s%s' % (digits, message.arbitration_id, flags, bytes(message.data).hex().upper()))

# A loaded machine is no reason to give up.
patient = {'rx_flowcontrol_timeout': 30000, 'rx_consecutive_frame_timeout': 30000}
address = isotp.Address(getattr(isotp.AddressingMode, options.get('mode', 'Normal_11bits')),
                        rxid=options.get('rxid'), txid=options.get('txid'),
                        target_address=options.get('target'), source_address=options.get('source'))
stack = isotp.TransportLayer(receive, send, address, error_handler=lambda error: say('!%s' % type(error).__name__),
                             params={**patient, **options.get('params', {})})
stack.start()
say('ready')

def answer():
    while True:
        message = stack.recv(block=True, timeout=0.05)
        if message:
            stack.send(bytes(reversed(message)))

threading.Thread(target=answer, daemon=True).start()
for line in sys.stdin:
    words = line.split()
    if len(words) < 3 or '#' not in words[2]:
        break
    identifier, _, data = words[2].partition('#')
    fd = data.startswith('#')
    if fd:
        data = data[2:]
    received.put(isotp.CanMessage(arbitration_id=int(identifier, 16), extended_id=len(identifier) == 8,
                                  data=bytes.fromhex(data), is_fd=fd))
