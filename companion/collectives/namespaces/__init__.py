"""Hosts on one machine: network namespaces, and programs that run on them."""
