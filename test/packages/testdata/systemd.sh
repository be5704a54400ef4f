# Runs in a booted system, with bash -eux: the first command that fails ends it. Waits have deadlines of minutes.
state() { systemctl show --value -p "$1" waybill-agent.service; }
until_true() { # COMMAND…: within two minutes of a slow machine
  local end=$((SECONDS + 120))
  until "$@"; do
    [ $SECONDS -lt $end ]
    sleep 0.2
  done
}
metric() { # NAME: the sum over its labels
  exec 3<>/dev/tcp/127.0.0.1/9464
  printf 'GET /metrics HTTP/1.0\r\nHost: 127.0.0.1:9464\r\n\r\n' >&3
  awk -v name="$1" 'index($1, name) == 1 { sum += $2 } END { print sum + 0 }' <&3
  exec 3<&-
}
trap 'journalctl --no-pager -n 80 || true' ERR
ip link set lo up
LOAD_MODULES
mkdir -p /etc/waybill/can /etc/systemd/system/waybill-agent.service.d
touch /etc/waybill/can/vcan0
cat >/etc/waybill/agent.yaml <<END
device: {id: guest-1}
data_dir: /var/lib/waybill
can: [{bus: can0, interface: vcan0, record: all}]
metrics: {listen: "127.0.0.1:9464"}
queue: {commit_every: 200ms}
END
# Shorter than the package's, for the trial's sake; a process that is stopped does not end by SIGABRT.
cat >/etc/systemd/system/waybill-agent.service.d/trial.conf <<END
[Service]
WatchdogSec=30
TimeoutAbortSec=2
END

# The package starts the service, and waits until it is ready.
dpkg -i --force-confold /agent.deb
[ "$(state ActiveState)" = active ]
[ "$(state Type)" = notify ]
pid=$(state MainPID)
grep -E '^(Uid|Groups|NoNewPrivs|Seccomp|Cap)' /proc/$pid/status
[ "$(awk '/^Uid:/ { print $2 $3 $4 $5 }' /proc/$pid/status)" = "$(printf '%s' {1..4} | sed "s/[1-4]/$(id -u waybill)/g")" ]
for set in CapInh CapPrm CapEff CapBnd CapAmb; do grep -qE "^$set:\s0+$" /proc/$pid/status; done
grep -qE '^NoNewPrivs:\s1$' /proc/$pid/status
grep -qE '^Seccomp:\s2$' /proc/$pid/status

# A bus that appears is brought up by the rule, and read.
ip link add dev vcan0 type vcan
up() { [ "$(systemctl is-active waybill-can@vcan0.service)" = active ] && ip -o link show vcan0 | grep -q ',UP'; }
until_true up
frames() { cansend vcan0 123#0102030405060708 && [ "$(metric waybill_can_frames_total)" -ge 20 ]; }
until_true frames

# Reloaded, it is the same process, and reads on.
systemctl reload waybill-agent.service
[ "$(state ActiveState)" = active ]
[ "$(state MainPID)" = "$pid" ]
until_true frames

# The watchdog is fed, again and again, as systemd saw it. Then it ends a process that hangs, and a new one reads on.
[ "$(state WatchdogUSec)" = 30s ]
for beat in 1 2 3; do
  last=$(state WatchdogTimestampMonotonic)
  fed() { [ "$(state WatchdogTimestampMonotonic)" != "$last" ]; }
  until_true fed
done
[ "$(state NRestarts)" = 0 ]
[ "$(state MainPID)" = "$pid" ]
kill -STOP "$pid"
restarted() { [ "$(state NRestarts)" -ge 1 ] && [ "$(state ActiveState)" = active ]; }
until_true restarted
[ "$(state MainPID)" != "$pid" ]
until_true frames

# Removed with the package.
dpkg -P waybill-agent
[ ! -e /var/lib/waybill ]
[ "$(systemctl is-active waybill-agent.service || true)" != active ]
if pgrep -x waybill-agent 2>/dev/null; then exit 1; fi
echo TRIAL PASSED
