"""What PTX instructions compute: functions of arrays over lanes, which know nothing of memory."""
