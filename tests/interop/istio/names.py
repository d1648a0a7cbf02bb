"""A name server with a fixed table, for what lies outside of the mesh."""
import socket
import struct
import threading

_NO_SUCH_NAME = 3


def _question(packet):
    """(name, type, where the question ends) of a query."""
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1:at + 1 + packet[at]].decode())
        at += 1 + packet[at]
    return ".".join(labels).lower(), struct.unpack("!H", packet[at + 1:at + 3])[0], at + 5


class NameServer:
    """Answers A queries on `space` from `table`, {name: [IPv4 addresses]}, which may change while it runs."""

    def __init__(self, space, address, table):
        self.table = table
        with space.inside():
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                packet, asker = self.socket.recvfrom(2048)
                self.socket.sendto(self._answer(packet), asker)
            except (IndexError, struct.error, UnicodeDecodeError):
                continue
            except OSError:
                return

    def _answer(self, packet):
        name, kind, end = _question(packet)
        known = name in self.table
        found = self.table.get(name, []) if kind == 1 else []
        flags = 0x8580 | (0 if known else _NO_SUCH_NAME)
        head = packet[:2] + struct.pack("!5H", flags, 1, len(found), 0, 0)
        records = b"".join(struct.pack("!3HIH", 0xC00C, 1, 1, 5, 4) + socket.inet_aton(a) for a in found)
        return head + packet[12:end] + records

    def close(self):
        self.socket.close()
