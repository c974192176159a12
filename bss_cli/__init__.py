"""The program `bss`: the only room that uses both the service and the client, and that nothing uses."""
