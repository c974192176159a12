"""Internal. What requests ask of jobs: `host.py` lets them change, `looks.py` shows them, beside whom they train."""

from bss_service.host.host import Host as Host
