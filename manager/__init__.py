"""The cluster manager: owns the desired state, the life cycle, the store, the MQTT bridge and the root link."""
