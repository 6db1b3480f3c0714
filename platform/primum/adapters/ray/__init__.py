"""Compute on a local Ray: a keeper process holds the head and warm workers across Studies.

``keeper`` alone imports ray, in its own process. A step reaches it over a private socket, which
takes milliseconds where importing ray and joining the cluster would take a second per step, and
which tells the keeper when a step has died: its work is ended with it.

Ray's own processes listen on all interfaces of the machine even when told to use the loopback
address. They demand the token in the home folder (mode 0600), but on a machine in an open network
keep the ports behind a firewall.
"""

from __future__ import annotations

from primum.adapters.ray.compute import RayCompute, RaySettings, ray_down, ray_up

__all__ = ["RayCompute", "RaySettings", "ray_down", "ray_up"]
