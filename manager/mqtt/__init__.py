"""Between nodes and manager over MQTT."""
