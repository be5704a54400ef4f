include $(sort $(wildcard $(BR2_EXTERNAL_WAYBILL_PATH)/package/*/*.mk))
