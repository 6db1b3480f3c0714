"""Manifests of what the platform asks other controllers for, as pure functions of what is wanted.

KubeRay runs ``rayjob``, KServe (or a plain Deployment) serves ``endpoint``; ``rayjob_status`` reads
a RayJob back. Each returns a plain mapping for a server-side apply. Must not talk to a server,
decide about budgets, or hold a token or a value from data.
"""
