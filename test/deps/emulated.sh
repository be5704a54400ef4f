#!/usr/bin/env bash
# Runs a command as root of a user namespace in which the kernel starts ARM programs by qemu's user-mode emulation. Nothing of
# it is left behind, and nobody else sees it.
#
#     test/deps/emulated.sh FOLDER ARCH COMMAND…   FOLDER has qemu-aarch64-static and qemu-arm-static; ARCH is arm64 or armhf
set -euo pipefail
folder=$1
case $2 in # the beginning of an ELF file's header: class, byte order, version, type and machine (elf(5))
  arm64) class=02 machine=b7 qemu=$folder/qemu-aarch64-static ;;
  armhf) class=01 machine=28 qemu=$folder/qemu-arm-static ;;
  *) echo "emulated.sh: no architecture $2" >&2; exit 2 ;;
esac
shift 2
x='\x00\x00\x00\x00\x00\x00\x00\x00'
export RULE=":waybill:M::\\x7fELF\\x$class\\x01\\x01\\x00$x\\x02\\x00\\x$machine\\x00:\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:$qemu:F"
gate=$(mktemp -u)
mkfifo "$gate"
# shellcheck disable=SC2016 # the inner shell's own
# The namespace's first process waits until it has its users, which only its parent can give it.
unshare --user --mount sh -c '
  read -r _ <"$0" && mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && printf %s "$RULE" >/proc/sys/fs/binfmt_misc/register && exec "$@"
' "$gate" "$@" &
pid=$!
until [ "$(readlink /proc/$pid/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do
  kill -0 $pid || exit 1
  sleep 0.05
done
echo '0 0 65536' >/proc/$pid/uid_map
echo '0 0 65536' >/proc/$pid/gid_map
echo >"$gate"
rm "$gate"
wait $pid
