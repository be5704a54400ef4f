#!/usr/bin/env bash
# Brings the parts that the tests need and that Go does not have into .cache/deps, by group:
#
#     test/deps/fetch.sh GROUP…      prints the folder of each group, one a line
#     test/deps/fetch.sh --list      says which groups there are
#
# Nothing is installed and no root is needed: Debian packages are downloaded with this machine's own apt sources into
# package lists of our own, and unpacked. A group that is there costs a few milliseconds; two calls at once wait for each other.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${WAYBILL_CACHE:-$(cd "$here/../.." && pwd)/.cache}/deps
apt=$cache/.apt

fail() { echo "fetch.sh: $*" >&2; exit 1; }

# What each group consists of. A changed line fetches that group anew.
spec() {
  case $1 in
    uml)          echo "download user-mode-linux" ;;
    can-utils)    echo "closure can-utils" ;;
    iproute2)     echo "closure iproute2" ;;
    dmsetup)      echo "closure dmsetup" ;;
    can-utils-arm64) echo "foreign arm64 can-utils libc6" ;;
    mosquitto)    echo "closure mosquitto mosquitto-clients" ;;
    rabbitmq)     echo "closure rabbitmq-server" ;;
    hocon)        echo "maven com.typesafe:config:1.4.3" ;;
    postgresql)   echo "closure postgresql-15 postgresql-client-15 postgresql-client-common" ;;
    hivemq)       echo "maven com.hivemq:hivemq-community-edition-embedded:2025.5" ;;
    kafka)        echo "maven org.apache.kafka:kafka_2.13:4.1.1 org.slf4j:slf4j-simple:1.7.36" ;;
    mongo)        echo "maven de.bwaldvogel:mongo-java-server:1.47.0 de.bwaldvogel:mongo-java-server-h2-backend:1.47.0 org.slf4j:slf4j-simple:2.0.17" ;;
    connect)      echo "maven org.apache.kafka:connect-runtime:4.2.0 org.slf4j:slf4j-simple:1.7.36" ;;
    connect-jdbc) echo "maven io.debezium:debezium-connector-jdbc:3.3.1.Final" ;;
    connect-mongo) echo "maven org.mongodb.kafka:mongo-kafka-connect:2.0.1" ;;
    registry)     echo "maven-archive io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all" ;;
    confluent)    echo "pip confluent-kafka[schemaregistry,json,protobuf]==2.11.1" ;;
    flink)        echo "maven $(printf 'org.apache.flink:%s:2.1.1 ' flink-clients flink-table-planner_2.12 flink-table-runtime flink-json flink-connector-base)org.apache.flink:flink-sql-connector-kafka:4.0.1-2.0 org.slf4j:slf4j-simple:1.7.36" ;;
    strimzi)      echo "maven io.strimzi:api:0.48.0" ;;
    java)         echo "java openjdk-17-jdk-headless openjdk-17-jre-headless" ;;
    qemu-user)    echo "download qemu-user-static" ;;
    qemu-system)  echo "closure qemu-system-arm" ;;
    kernel-arm64) echo "kernel arm64 linux-image-arm64" ;;
    kernel-arm64-net) echo "kernel arm64 linux-image-arm64" ;;
    kernel-arm64-disk) echo "kernel arm64 linux-image-arm64" ;;
    kernel-armhf) echo "kernel armhf linux-image-armmp" ;;
    cantools)     echo "pip cantools==45.1.0 can-isotp==2.0.7 udsoncan==1.26.1 py-obdii==0.10.5b0" ;;
    dbc-files)    echo "sdist cantools==45.1.0 opendbc==0.3.1 canmatrix==1.3.3" ;;
    cc)           echo "closure gcc libc6-dev libc6 libgcc-s1" ;;
    strace)       echo "closure strace" ;;
    zstd)         echo "closure zstd" ;;
    e2fsprogs)    echo "closure e2fsprogs" ;;
    swtpm)        echo "closure swtpm" ;;
    rauc)         echo "closure rauc rauc-service squashfs-tools dbus-daemon openssl" ;;
    swupdate)     echo "closure swupdate cpio openssl" ;;
    chromium)     echo "closure chromium fonts-dejavu-core fontconfig-config" ;;
    node)         echo "node nodejs npm" ;;
    playwright)   echo "npm playwright-core@1.56.1" ;;
    openapi)      echo "npm @seriousme/openapi-schema-validator@2.11.0" ;;
    tuf)          echo "pip tuf==7.0.1 securesystemslib==1.6.0 cryptography==48.0.0" ;;
    shellcheck)   echo "closure shellcheck" ;;
    groff)        echo "closure groff-base" ;;
    prometheus)   echo "download prometheus" ;;
    debootstrap)  echo "closure debootstrap wget" ;;
    rootfs-amd64) echo "rootfs amd64 bookworm systemd-sysv udev iproute2" ;;
    rootfs-arm64) echo "rootfs arm64 bookworm" ;;
    oelint)       echo "pip oelint-adv==9.11.2" ;;
    cyclonedx)    echo "pip cyclonedx-python-lib[json-validation]==11.12.0" ;;
    gpsd)         echo "download gpsd gpsd-clients python3-gps libgps28 libbluetooth3 libdbus-1-3 libusb-1.0-0 python3-serial" ;;
    *) return 1 ;;
  esac
}

run_apt() { # TOOL ARGS…: apt with lists and archives of our own, on the machine's sources and its record of what is installed
  local tool=$1
  shift
  "$tool" -q -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt" -o Dir::Cache::archives="$apt/archives" \
    -o Dir::Cache::pkgcache=pkgcache.bin -o Dir::Cache::srcpkgcache=srcpkgcache.bin \
    -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=2 -o Acquire::Languages=none \
    -o APT::Architectures::="$(dpkg --print-architecture)" ${foreign:+-o APT::Architectures::="$foreign"} "$@"
}

# Runs one attempt after another; package lists are fetched before the second, or when there are none or they are for
# other architectures: a mirror forgets a package's old version within days.
with_lists() {
  command -v apt-get >/dev/null || fail "no apt-get here: $group has to come from this machine's own packages"
  mkdir -p "$apt/lists/partial" "$apt/archives/partial"
  local try stamp=$apt/lists-${foreign:-native}
  for try in 1 2 3; do
    if [ $try -gt 1 ] || [ ! -e "$stamp" ]; then
      # A third party's broken source is none of our business, hence no exit on failure: the download itself will tell.
      run_apt apt-get update >"$apt/update.log" 2>&1 || cat "$apt/update.log" >&2
      touch "$stamp"
    fi
    if "$@" >"$apt/get.log" 2>&1; then return; fi
    sleep $((try * 2))
  done
  tail -n 20 "$apt/get.log" >&2
  fail "$group: could not be downloaded"
}

get_packages() { (cd "$apt/archives" && run_apt apt-get download "$@"); }
get_closure() { run_apt apt-get install --download-only --reinstall --no-install-recommends -y "$@"; }

unpack() { # DEST: every archive that was downloaded
  local deb
  for deb in "$apt"/archives/*.deb; do
    [ -e "$deb" ] || fail "$group: nothing was downloaded"
    dpkg-deb -x "$deb" "$1"
  done
}

# Writes DEST/python3, a wrapper around an interpreter that has pip (this machine's, else Debian's, unpacked beside it)
# which finds what is in DEST/site.
make_python() {
  local python real='' libraries
  libraries=debian/usr/lib/$(uname -m)-linux-gnu
  for python in "$(command -v python3 || true)" /usr/bin/python3; do
    if [ -x "$python" ] && "$python" -m pip --version >/dev/null 2>&1; then
      real=$("$python" -c 'import sys; print(sys.executable)')
      break
    fi
  done
  if [ -z "$real" ]; then
    with_lists get_closure python3-minimal python3 python3-pip
    unpack "$1/debian"
    real=$(cd "$1" && echo debian/usr/bin/python3.[0-9]*[0-9])
    [ -x "$1/$real" ] && real="\$here/$real" || real=/usr/bin/python3
  fi
  cat >"$1/python3" <<END
#!/bin/sh
here=\$(cd "\$(dirname "\$0")" && pwd)
export PYTHONPATH="\$here/site:\$here/debian/usr/lib/python3/dist-packages" LD_LIBRARY_PATH="\$here/$libraries"
exec $real "\$@"
END
  chmod +x "$1/python3"
}

# Writes DEST/java, a wrapper around a Java of at least 17 that compiles: this machine's, else Debian's, unpacked beside it.
make_java() { # DEST PACKAGE…
  local dest=$1 real version='' link
  shift
  real=$(command -v java || true)
  [ -z "$real" ] || version=$("$real" --list-modules 2>/dev/null | sed -n 's/^jdk\.compiler@\([0-9]*\).*/\1/p')
  if [ "${version:-0}" -lt 17 ]; then
    with_lists get_closure "$@"
    unpack "$dest/debian"
    # A JDK's settings are links into /etc, which an unpacked one has beside it.
    find "$dest/debian/usr/lib/jvm" -type l -lname '/etc/*' | while IFS= read -r link; do
      ln -sfnr "$dest/debian$(readlink "$link")" "$link"
    done
    real="\$here"/$(cd "$dest" && echo debian/usr/lib/jvm/java-[0-9][0-9]-openjdk-*/bin/java)
    mkdir -p "$dest/debian/etc/ssl/certs/java"
  fi
  cat >"$dest/java" <<END
#!/bin/sh
here=\$(cd "\$(dirname "\$0")" && pwd)
export LD_LIBRARY_PATH="\$here/debian/usr/lib/$(uname -m)-linux-gnu"
exec $real "\$@"
END
  chmod +x "$dest/java"
  # The package's installation would have made Java's own list of authorities out of the system's.
  [ ! -d "$dest/debian" ] || "$dest/java" "$here/Authorities.java" /etc/ssl/certs/ca-certificates.crt "$dest/debian/etc/ssl/certs/java/cacerts"
}

# Writes DEST/node and DEST/npm, wrappers around this machine's Node.js with its npm, else around Debian's, unpacked beside them.
make_node() { # DEST PACKAGE…
  local dest=$1 node npm link
  shift
  node=$(command -v node || true)
  npm=$(command -v npm || true)
  if [ -z "$node" ] || [ -z "$npm" ]; then
    with_lists get_closure "$@"
    unpack "$dest/debian"
    find "$dest/debian" -type l -lname '/*' | while IFS= read -r link; do ln -sfnr "$dest/debian$(readlink "$link")" "$link"; done
    node="\$here/debian/usr/bin/node"
    npm="$node \$here/debian/usr/share/nodejs/npm/bin/npm-cli.js"
  fi
  local name
  for name in node npm; do
    cat >"$dest/$name" <<END
#!/bin/sh
here=\$(cd "\$(dirname "\$0")" && pwd)
if [ -d "\$here/debian" ]; then
  export LD_LIBRARY_PATH="\$here/debian/usr/lib/$(uname -m)-linux-gnu" NODE_PATH="\$here/debian/usr/share/nodejs" PATH="\$here/debian/usr/bin:\$PATH"
fi
exec ${!name} "\$@"
END
    chmod +x "$dest/$name"
  done
}

# Brings Maven packages with all that they need into DEST/jars, or with `alone` one archive, GROUP:NAME:VERSION:TYPE:CLASSIFIER, as it is.
get_maven() { # DEST [alone] GROUP:NAME:VERSION…
  local dest=$1 java home part link org name version
  local goal=(dependency:copy-dependencies -DincludeScope=runtime)
  shift
  if [ "$1" = alone ]; then
    goal=(dependency:copy -Dartifact="$2")
    shift 2
  fi
  java=$cache/java/java
  home=$([ -z "$(command -v mvn || true)" ] || readlink -f "$(dirname "$(readlink -f "$(command -v mvn)")")/..")
  if [ -z "$home" ]; then
    with_lists get_closure maven
    unpack "$dest/debian"
    home=$dest/debian/usr/share/maven
    find "$dest/debian" -type l -lname '/*' | while IFS= read -r link; do ln -sfnr "$dest/debian$(readlink "$link")" "$link"; done
  fi
  {
    echo '<project><modelVersion>4.0.0</modelVersion><groupId>test</groupId><artifactId>deps</artifactId><version>1</version><dependencies>'
    for part in "$@"; do
      IFS=: read -r org name version <<<"$part"
      echo "<dependency><groupId>$org</groupId><artifactId>$name</artifactId><version>$version</version></dependency>"
    done
    echo '</dependencies></project>'
  } >"$dest/pom.xml"
  "$java" -classpath "$(echo "$home"/boot/plexus-classworlds*.jar)" -Dclassworlds.conf="$home/bin/m2.conf" -Dmaven.home="$home" \
    -Dlibrary.jansi.mode=strip -Dmaven.multiModuleProjectDirectory="$dest" org.codehaus.plexus.classworlds.launcher.Launcher \
    -B -q -f "$dest/pom.xml" -Dmaven.repo.local="$cache/.m2" "${goal[@]}" -DoutputDirectory="$dest/jars" >&2
  rm -rf "$dest/debian" "$dest/pom.xml"
}

# Makes DEST/rootfs.tar, a Debian as debootstrap makes it. Only root can: it has device nodes and owners. Another
# processor's programs run by qemu, of which only a user namespace of our own knows (binfmt_misc has one in each since Linux 6.7).
make_rootfs() { # DEST ARCH SUITE PACKAGE…
  local tools=$cache/debootstrap dest=$1 tree=$1/tree arch=$2 suite=$3 packages mirror device libraries
  shift 3
  [ "$(id -u)" = 0 ] || fail "$group: debootstrap needs root"
  packages=$(IFS=,; echo "$*")
  # shellcheck disable=SC2016 # apt's own variables
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null |
    sed -n "s/ $suite\$//p" | head -n 1)
  [ -n "$mirror" ] || fail "$group: apt knows no archive of Debian $suite"
  (
    if ! command -v wget >/dev/null; then
      libraries=$tools/usr/lib/$(uname -m)-linux-gnu
      export PATH=$PATH:$tools/usr/bin LD_LIBRARY_PATH=$libraries
    fi
    DEBOOTSTRAP_DIR=$tools/usr/share/debootstrap sh "$tools/usr/sbin/debootstrap" --foreign --arch="$arch" --variant=minbase \
      ${packages:+--include="$packages"} "$suite" "$tree" "$mirror" >"$dest/log" 2>&1
  ) || { tail -n 20 "$dest/log" >&2; fail "$group: debootstrap failed"; }
  mkdir -p "$tree/etc/dpkg/dpkg.cfg.d"
  echo force-unsafe-io >"$tree/etc/dpkg/dpkg.cfg.d/unsafe-io" # a sync for each file takes longer than all the rest
  if [ "$arch" = "$(dpkg --print-architecture)" ]; then
    unshare --mount chroot "$tree" /debootstrap/debootstrap --second-stage >>"$dest/log" 2>&1
  else
    for device in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0' 'console 5 1' 'ptmx 5 2'; do
      read -ra device <<<"$device"
      [ -e "$tree/dev/${device[0]}" ] || mknod -m 666 "$tree/dev/${device[0]}" c "${device[@]:1}"
    done
    "$here/emulated.sh" "$cache/qemu-user/usr/bin" "$arch" env container=lxc chroot "$tree" /debootstrap/debootstrap --second-stage >>"$dest/log" 2>&1
  fi || { tail -n 20 "$dest/log" >&2; fail "$group: debootstrap's second stage failed"; }
  rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree/var/lib/apt/lists" "$tree/usr/share/doc" "$tree/usr/share/locale"
  tar --numeric-owner -C "$tree" -cf "$dest/rootfs.tar" .
  rm -rf "$tree"
}

fetch() { # GROUP DEST
  local group=$1 dest=$2 foreign='' kind names
  read -ra names <<<"$(spec "$group")"
  kind=${names[0]}
  names=("${names[@]:1}")
  rm -rf "$apt/archives"
  case $kind in
    download) with_lists get_packages "${names[@]}"; unpack "$dest" ;;
    closure)  with_lists get_closure "${names[@]}"; unpack "$dest" ;;
    foreign) # of another architecture, for a guest that has nothing
      foreign=${names[0]}
      [ "$foreign" != "$(dpkg --print-architecture)" ] || foreign=''
      names=("${names[@]:1}")
      with_lists get_packages "${names[@]/%/${foreign:+:$foreign}}"
      unpack "$dest"
      ;;
    kernel)
      foreign=${names[0]}
      [ "$foreign" != "$(dpkg --print-architecture)" ] || foreign=''
      local meta="${names[1]}${foreign:+:$foreign}"
      with_lists run_apt apt-cache show "$meta"
      local image
      image=$(run_apt apt-cache depends --important "$meta" | sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1)
      [ -n "$image" ] || fail "$group: $meta names no kernel"
      with_lists get_packages "$image"
      unpack "$dest"
      ;;
    pip)
      make_python "$dest"
      "$dest/python3" -m pip install --quiet --no-warn-script-location --disable-pip-version-check --root-user-action ignore \
        --target "$dest/site" "${names[@]}" >&2
      ;;
    java) make_java "$dest" "${names[@]}" ;;
    node) make_node "$dest" "${names[@]}" ;;
    npm)
      "$cache/node/npm" install --silent --no-audit --no-fund --ignore-scripts --prefix "$dest" "${names[@]}" >&2
      ;;
    rootfs) make_rootfs "$dest" "${names[@]}" ;;
    maven) get_maven "$dest" "${names[@]}" ;;
    maven-archive)
      get_maven "$dest" alone "${names[@]}"
      tar -xzf "$dest"/jars/*.tar.gz -C "$dest" --no-same-owner
      rm -rf "$dest/jars"
      ;;
    sdist) # of packages' sources, the DBC files that they hold
      make_python "$dest"
      local name archive
      for name in "${names[@]}"; do
        "$dest/python3" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary "${name%%=*}" --dest "$dest/archives" "$name" >&2
      done
      for archive in "$dest"/archives/*.tar.gz; do
        tar -xzf "$archive" -C "$dest" --no-same-owner --wildcards '*.[dD][bB][cC]'
      done
      find "$dest" ! -type d ! -iname '*.dbc' -delete
      find "$dest" -depth -type d -empty -delete
      ;;
  esac
  # A compiler that is not where it was made for wants telling where its headers are. Its C library must not serve the
  # compiler itself, which runs on the machine's: the two may differ.
  if [ "$group" = cc ]; then
    cat >"$dest/cc" <<'END'
#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
export PATH="$here/usr/bin:$PATH" LD_LIBRARY_PATH="$here/usr/lib/$(uname -m)-linux-gnu"
exec gcc --sysroot="$here" "$@"
END
    chmod +x "$dest/cc"
  fi
  # What no test needs is most of some packages.
  case $group in
    can-utils-arm64) rm -rf "${dest:?}/etc" "$dest"/usr/lib/*/gconv ;;
    # Jackson is the worker's: with one of its own the connector fails at the worker's modules.
    connect-jdbc) rm -f "$dest"/jars/{jackson-core,jackson-databind,jackson-annotations,slf4j-api,ojdbc,mssql-jdbc,mysql-connector,mariadb-java}*.jar ;;
    connect-mongo) rm -f "$dest"/jars/{connect-api,kafka-clients,jackson-,slf4j-api,javax.ws.rs-api}*.jar ;;
    prometheus) find "$dest" ! -type d ! -name promtool ! -name .stamp -delete ;;
    qemu-user) find "$dest/usr/bin" -type f ! -name 'qemu-arm-static' ! -name 'qemu-aarch64-static' -delete ;;
    kernel-*)
      local keep=(-path '*/net/can/*')
      [[ $group != *-net ]] || keep+=(-o -name 'veth.ko*' -o -name 'sch_netem.ko*')
      [[ $group != *-disk ]] || keep+=(-o -path '*/fs/ext4/*' -o -path '*/fs/jbd2/*' -o -name 'mbcache.ko*' -o -name 'crc16.ko*' \
        -o -name 'libcrc32c.ko*' -o -name 'crc32c_generic.ko*' -o -name 'virtio_mmio.ko*' -o -name 'virtio_blk.ko*')
      find "$dest" -name '*.ko*' ! \( "${keep[@]}" \) -delete
      rm -rf "$dest"/usr/lib/linux-image-* "$dest"/boot/System.map-*
      find "$dest" -depth -type d -empty -delete
      ;;
  esac
  rm -rf "$apt/archives" "$dest/usr/share/doc" "$dest/usr/share/man" "$dest/usr/share/locale"
}

[ $# -gt 0 ] || fail "usage: fetch.sh GROUP…"
if [ "$1" = --list ]; then
  sed -n 's/^    \([a-z0-9-]*\)) *echo .*/\1/p' "${BASH_SOURCE[0]}"
  exit
fi
mkdir -p "$cache"
for group in "$@"; do
  want=$(spec "$group") || fail "no group $group"
  if [ "$(cat "$cache/$group/.stamp" 2>/dev/null)" != "$want" ]; then
    [[ $want != maven* ]] || "${BASH_SOURCE[0]}" java >/dev/null
    [[ $want != rootfs* ]] || "${BASH_SOURCE[0]}" debootstrap qemu-user >/dev/null
    [[ $want != npm* ]] || "${BASH_SOURCE[0]}" node >/dev/null
    (
      flock 9
      [ "$(cat "$cache/$group/.stamp" 2>/dev/null)" != "$want" ] || exit 0 # another call brought it while we waited
      rm -rf "${cache:?}/$group" "$cache/$group.part"
      mkdir -p "$cache/$group.part"
      fetch "$group" "$cache/$group.part"
      echo "$want" >"$cache/$group.part/.stamp"
      mv "$cache/$group.part" "$cache/$group"
    ) 9>"$cache/.lock"
  fi
  echo "$cache/$group"
done
