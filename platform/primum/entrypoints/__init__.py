"""Processes: parse, call one use case, render. ``bootstrap`` alone picks implementations."""
