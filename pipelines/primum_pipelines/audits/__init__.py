"""Audits: what is tried against a result before anybody else can, and what came of it.

Registered under the entry-point group ``primum.audits``. The modules here are light; the programs
that need torch lie in ``primum_pipelines.attacks`` and ``audits.self_test`` and are imported inside
functions only. An audit never proves privacy and never spends budget.
"""
