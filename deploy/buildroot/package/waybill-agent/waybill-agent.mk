################################################################################
#
# waybill-agent
#
################################################################################

WAYBILL_AGENT_VERSION = $(call qstrip,$(BR2_PACKAGE_WAYBILL_AGENT_RELEASE_VERSION))
WAYBILL_AGENT_ARCH = $(if $(BR2_aarch64),arm64,$(if $(BR2_x86_64),amd64,armhf))
WAYBILL_AGENT_SOURCE = waybill-agent-$(WAYBILL_AGENT_VERSION)-linux-$(WAYBILL_AGENT_ARCH).tar.gz
WAYBILL_AGENT_SITE = $(call qstrip,$(BR2_PACKAGE_WAYBILL_AGENT_RELEASE))
WAYBILL_AGENT_SITE_METHOD = file
WAYBILL_AGENT_LICENSE = Apache-2.0
WAYBILL_AGENT_LICENSE_FILES = usr/share/doc/waybill-agent/copyright

define WAYBILL_AGENT_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(@D)/usr/lib/waybill/waybill-agent $(TARGET_DIR)/usr/lib/waybill/waybill-agent
	$(INSTALL) -D -m 0755 $(@D)/usr/lib/waybill/waybill-launcher $(TARGET_DIR)/usr/lib/waybill/waybill-launcher
	$(INSTALL) -D -m 0755 $(@D)/usr/bin/waybill-agent $(TARGET_DIR)/usr/bin/waybill-agent
	$(INSTALL) -D -m 0644 $(@D)/usr/lib/udev/rules.d/60-waybill.rules $(TARGET_DIR)/usr/lib/udev/rules.d/60-waybill.rules
	$(INSTALL) -D -m 0640 $(@D)/etc/waybill/agent.yaml $(TARGET_DIR)/etc/waybill/agent.yaml
endef

define WAYBILL_AGENT_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(@D)/usr/lib/systemd/system/waybill-agent.service $(TARGET_DIR)/usr/lib/systemd/system/waybill-agent.service
	$(INSTALL) -D -m 0644 $(@D)/usr/lib/systemd/system/waybill-can@.service $(TARGET_DIR)/usr/lib/systemd/system/waybill-can@.service
endef

define WAYBILL_AGENT_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(WAYBILL_AGENT_PKGDIR)/S80waybill $(TARGET_DIR)/etc/init.d/S80waybill
endef

define WAYBILL_AGENT_USERS
	waybill -1 waybill -1 * /var/lib/waybill - dialout Waybill telematics agent
endef

define WAYBILL_AGENT_PERMISSIONS
	/etc/waybill d 0750 root waybill - - - - -
	/etc/waybill/agent.yaml f 0640 root waybill - - - - -
	/var/lib/waybill d 0750 waybill waybill - - - - -
endef

$(eval $(generic-package))
