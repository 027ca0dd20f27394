"""Headers of the PROXY protocol, version 2, written by the book: what a network load balancer sends."""

import ipaddress
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def _table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = _table()


def crc32c(data):
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def field(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


def header(source="10.64.3.7", port=40000, destination="10.1.2.9", to=8443, vpce=None, sum=True, local=False, padding=0):
    source, destination = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    addresses = b"" if local else source.packed + destination.packed + struct.pack("!HH", port, to)
    fields = field(0x03, b"\0\0\0\0") if sum and not local else b""
    if vpce:
        fields += field(0xEA, b"\x01" + vpce.encode())
    if padding:
        fields += field(0x04, b"\0" * padding)
    family = 0 if local else 0x11 if source.version == 4 else 0x21
    start = SIGNATURE + struct.pack("!BBH", 0x20 if local else 0x21, family, len(addresses) + len(fields)) + addresses
    if sum and not local:
        value = crc32c(start + fields)
        fields = field(0x03, struct.pack("!I", value)) + fields[7:]
    return start + fields
