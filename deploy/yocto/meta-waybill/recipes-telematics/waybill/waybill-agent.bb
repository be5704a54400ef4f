SUMMARY = "Telematics agent of a car"
DESCRIPTION = "Reads CAN and GPS, keeps every sample through dead zones and power cuts, delivers it over MQTT, exactly once."
HOMEPAGE = "https://github.com/waybill-telematics/waybill"
SECTION = "net"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

# What make release made: the folder, and the version in its files' names. Both belong into local.conf or the distribution.
WAYBILL_RELEASE ?= ""
WAYBILL_VERSION ?= "0.0.0"
PV = "${WAYBILL_VERSION}"

WAYBILL_ARCH = "unknown"
WAYBILL_ARCH:aarch64 = "arm64"
WAYBILL_ARCH:armv7a = "armhf"
WAYBILL_ARCH:armv7ve = "armhf"
WAYBILL_ARCH:x86-64 = "amd64"
COMPATIBLE_HOST = "(aarch64|arm|x86_64).*-linux"

SRC_URI = "file://${WAYBILL_RELEASE}/waybill-agent-${PV}-linux-${WAYBILL_ARCH}.tar.gz"
S = "${WORKDIR}/waybill-agent-${PV}-linux-${WAYBILL_ARCH}"

inherit systemd useradd features_check

REQUIRED_DISTRO_FEATURES = "systemd"
SYSTEMD_SERVICE:${PN} = "waybill-agent.service"
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system waybill"
USERADD_PARAM:${PN} = "--system --gid waybill --groups dialout --home-dir ${localstatedir}/lib/waybill --no-create-home --shell /sbin/nologin waybill"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${nonarch_libdir}/waybill ${D}${bindir} ${D}${systemd_system_unitdir} ${D}${nonarch_base_libdir}/udev/rules.d
    install -m 0755 ${S}/usr/lib/waybill/waybill-agent ${S}/usr/lib/waybill/waybill-launcher ${D}${nonarch_libdir}/waybill/
    install -m 0755 ${S}/usr/bin/waybill-agent ${D}${bindir}/
    install -m 0644 ${S}/usr/lib/systemd/system/waybill-agent.service ${S}/usr/lib/systemd/system/waybill-can@.service ${D}${systemd_system_unitdir}/
    install -m 0644 ${S}/usr/lib/udev/rules.d/60-waybill.rules ${D}${nonarch_base_libdir}/udev/rules.d/
    install -d -m 0750 -g waybill ${D}${sysconfdir}/waybill
    install -m 0640 -g waybill ${S}/etc/waybill/agent.yaml ${D}${sysconfdir}/waybill/
}

CONFFILES:${PN} = "${sysconfdir}/waybill/agent.yaml"
FILES:${PN} += "${nonarch_libdir}/waybill ${systemd_system_unitdir} ${nonarch_base_libdir}/udev/rules.d"
RRECOMMENDS:${PN} = "ca-certificates iproute2 tzdata"

# Go's programs are static and stripped already.
INSANE_SKIP:${PN} = "already-stripped"
INHIBIT_PACKAGE_STRIP = "1"
INHIBIT_SYSROOT_STRIP = "1"
INHIBIT_PACKAGE_DEBUG_SPLIT = "1"
