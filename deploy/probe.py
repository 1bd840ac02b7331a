"""`python3 -I -S probe.py PORT PATH`: whether this container's HTTP answers 200. Imports little: it runs for ever."""

import socket
import sys

port, path = sys.argv[1:]
with socket.create_connection(("127.0.0.1", int(port)), timeout=4) as connection:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = connection.recv(64)
sys.exit(b" 200 " not in answer)
