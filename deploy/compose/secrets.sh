#!/usr/bin/env bash
# Makes what compose.yaml needs and no repository may hold: authorities, certificates, passwords, a token of the page.
#
#     deploy/compose/secrets.sh TENANT           all of it, into deploy/compose/secrets
#     deploy/compose/secrets.sh TENANT DEVICE    a vehicle's certificate, into deploy/compose/secrets/vehicles
#
# What is there stays. It needs openssl. The files are readable by all, since the users in the containers are others; the
# folder is yours alone. Two authorities: a vehicle's certificate can never be taken for a store's.
set -euo pipefail
umask 077

fail() { echo "secrets.sh: $*" >&2; exit 1; }

if [ $# -lt 1 ] || [ $# -gt 2 ]; then fail "usage: secrets.sh TENANT [DEVICE]"; fi
name='^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$' # what stands in topics; the fleet takes no dots
[[ $1 =~ $name ]] || fail "TENANT: letters, digits, _ and -, 64 at most, as it stands in topics"
tenant=$1 device=${2:-}
[ -z "$device" ] || [[ $device =~ $name ]] || fail "DEVICE: letters, digits, _ and -, 64 at most, as it stands in topics"
[[ $device != store-* ]] || fail "DEVICE: names that begin with store- are the stores' own (acl.conf)"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
to=${WAYBILL_SECRETS:-$here/secrets}
mkdir -p "$to/vehicles"

key() { openssl ecparam -name prime256v1 -genkey -noout 2>/dev/null | openssl pkcs8 -topk8 -nocrypt -out "$1"; }

authority() { # NAME
  [ ! -e "$to/$1.pem" ] || return 0
  key "$to/$1.key"
  openssl req -x509 -new -key "$to/$1.key" -sha256 -days 3650 -subj "/CN=Waybill $1" -out "$to/$1.pem" \
    -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' -addext 'keyUsage=critical,keyCertSign,cRLSign'
}

leaf() { # FILE AUTHORITY SUBJECT USAGE DAYS NAMES
  [ ! -e "$to/$1.pem" ] || return 0
  key "$to/$1.key"
  openssl req -new -key "$to/$1.key" -subj "$3" -out "$to/$1.csr"
  openssl x509 -req -in "$to/$1.csr" -CA "$to/$2.pem" -CAkey "$to/$2.key" -set_serial "0x$(openssl rand -hex 15)" -sha256 -days "$5" -out "$to/$1.pem" -extfile <(
    printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n' "$4"
    [ -z "$6" ] || printf 'subjectAltName=%s\n' "$6"
  ) 2>/dev/null
  rm "$to/$1.csr"
}

password() { [ -e "$to/$1" ] || openssl rand -base64 24 | tr -d '\n' >"$to/$1"; }

authority vehicles-ca
authority fleet-ca
if [ -n "$device" ]; then
  leaf "vehicles/$device" vehicles-ca "/O=$tenant/CN=$device" clientAuth 825 ''
  echo "for the vehicle: $to/vehicles/$device.pem, $to/vehicles/$device.key, and $to/fleet-ca.pem to know the broker by"
  exit
fi
# WAYBILL_HOST is the name by which vehicles and browsers know this machine.
names="DNS:localhost,IP:127.0.0.1${WAYBILL_HOST:+,DNS:$WAYBILL_HOST}"
leaf broker fleet-ca "/CN=emqx" serverAuth 825 "DNS:emqx,$names"
leaf store-fleet fleet-ca "/CN=store-fleet" clientAuth 825 ''
leaf page fleet-ca "/CN=localhost" serverAuth 825 "$names"
password database-password
password grafana-password
[ -e "$to/emqx.env" ] || echo "EMQX_NODE__COOKIE=$(openssl rand -hex 24)" >"$to/emqx.env"
if [ ! -e "$to/page-tokens" ]; then
  token=$(openssl rand -hex 32)
  printf '%s' "$token" >"$to/page-token"
  echo "$tenant: $(printf '%s' "$token" | openssl dgst -sha256 -r | cut -d' ' -f1)" >"$to/page-tokens"
fi
sed "/^%/! s/TENANT/$tenant/g" "$here/../emqx/acl.conf" >"$to/acl.conf"
# What is mounted is read by other users; the authorities' keys and the token are mounted nowhere.
(cd "$to" && chmod 0444 database-password grafana-password vehicles-ca.pem fleet-ca.pem broker.pem broker.key store-fleet.pem store-fleet.key page.pem page.key page-tokens acl.conf)
echo "the page's token is in $to/page-token, Grafana's password in $to/grafana-password (user admin)"
