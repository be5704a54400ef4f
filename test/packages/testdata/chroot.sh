# Runs in the new system, with -eux: the first command that fails ends it.
slots=/var/lib/waybill/firmware
version() { waybill-agent version | grep -q "v$1 "; }
start() { # the service's command as its user; with a replay it ends by itself
  (cd /var/lib/waybill && timeout 300 setpriv --reuid=waybill --regid=waybill --groups="$(id -G waybill | tr ' ' ,)" \
    --no-new-privs --bounding-set=-all /usr/lib/waybill/waybill-launcher run -c /etc/waybill/agent.yaml)
}

# Installed: a user, a service that starts with the system, the files, slot a.
dpkg -i /first.deb
dpkg -V waybill-agent
getent passwd waybill
[ "$(stat -c %U:%a /var/lib/waybill)" = waybill:750 ]
[ "$(stat -c %U:%G:%a /etc/waybill/agent.yaml)" = root:waybill:640 ]
[ -L /etc/systemd/system/multi-user.target.wants/waybill-agent.service ]
[ "$(stat -c %U $slots/slots/a/waybill-agent)" = waybill ]
version 0.1.0
waybill-agent check -c /etc/waybill/agent.yaml
/usr/lib/waybill/waybill-launcher --version | grep -q 0.1.0
gunzip -c /usr/share/man/man1/waybill-agent.1.gz | grep -q '^\.TH'
bash -n /usr/share/bash-completion/completions/waybill-agent

# Started: what a bus said is in the queue.
cat >/etc/waybill/drive.log <<END
(1700000000.000000) can0 100#0102030405060708
(1700000000.100000) can0 100#0202030405060708
END
cat >/etc/waybill/agent.yaml <<END
device: {id: chroot-1}
data_dir: /var/lib/waybill
can: [{bus: can0, replay: drive.log, speed: 0, time: receipt, record: all}]
END
start
waybill-agent queue ls /var/lib/waybill/queue >/tmp/before
grep -q raw /tmp/before

# Upgraded before any update: the new version runs, the owner's configuration and the queue are as they were.
dpkg -i --force-confold /second.deb
grep -q chroot-1 /etc/waybill/agent.yaml
[ "$(stat -c %U:%G:%a /etc/waybill/agent.yaml)" = root:waybill:640 ]
version 0.2.0
cmp $slots/slots/a/waybill-agent /usr/lib/waybill/waybill-agent
waybill-agent queue ls /var/lib/waybill/queue >/tmp/after
cmp /tmp/before /tmp/after
start

# Upgraded after an update: what the update installed stays and runs. The update is the first version here, so that it can be told apart.
dpkg-deb --fsys-tarfile /first.deb | tar -xO ./usr/lib/waybill/waybill-agent >/tmp/image
chmod 0644 /tmp/image
chmod 0755 /updated
setpriv --reuid=waybill --regid=waybill --clear-groups /updated $slots /tmp/image
version 0.1.0
/usr/lib/waybill/waybill-launcher --status >/tmp/status-before
dpkg -i --force-confold /second.deb
/usr/lib/waybill/waybill-launcher --status | cmp - /tmp/status-before
version 0.1.0
start

# Removed: programs are gone, data and configuration are not, and come back to use.
dpkg -r waybill-agent
[ ! -e /usr/lib/waybill ]
[ ! -e /usr/bin/waybill-agent ]
[ -e $slots/slots/b/waybill-agent ]
[ -e /etc/waybill/agent.yaml ]
dpkg -i --force-confold /second.deb
version 0.1.0
[ -L /etc/systemd/system/multi-user.target.wants/waybill-agent.service ]
start

# Purged: nothing is left but the user.
rm /etc/waybill/drive.log
dpkg -P waybill-agent
[ ! -e /var/lib/waybill ]
[ ! -e /etc/waybill ]
[ ! -e /etc/systemd/system/multi-user.target.wants/waybill-agent.service ]
[ ! -e /etc/systemd/system/waybill-agent.service ]
getent passwd waybill
echo TRIAL PASSED
