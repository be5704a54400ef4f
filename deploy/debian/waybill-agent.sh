#!/bin/sh
# The agent's tools (check, doctor, status …) of the version that runs: the one in the committed slot, as far as the caller
# may see it, else the package's own copy. The service does not come this way; it starts the launcher.
for agent in /var/lib/waybill/firmware/current/waybill-agent /usr/lib/waybill/waybill-agent; do
  [ ! -x "$agent" ] || exec "$agent" "$@"
done
echo "waybill-agent: no agent in /usr/lib/waybill; install the package again" >&2
exit 1
