"""The Kubernetes face: CRDs made from the resource models, and objects of an API server read back.

Decides nothing about privacy: models and rules are in ``primum.resources``, decisions in the
application.
"""
