"""Proxies between a client and a server: the real nginx, and one that makes a network's faults.

A package of their own, because the functions `nginx` and `fault_proxy` of `labserver.stage` have their modules' names.
"""
