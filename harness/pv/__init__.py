"""Xen's policy for a 32-bit kernel in ring 1: traps, bounces, emulation, hypercalls, events. Target: Xen 3.0.4."""
