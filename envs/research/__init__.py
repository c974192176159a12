"""Policies trained, judged, exported and compared offline; the commands `bss research …` run what is here."""
