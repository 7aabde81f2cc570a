"""Upgrades on one daemon: what the ledger has in force answers, as far as the owner lets it.

Read service.py first. Nothing is imported here: a council member's check (authoring/verdict.py) is
a process of its own, which needs the recorder and neither the service nor the network behind it.
"""
