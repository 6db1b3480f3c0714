"""The five kinds of ``primum.dev/v1alpha1``: their models, how YAML becomes them, what they become.

Used alike by command line, API and operator; the CRDs are generated from the models. May import the
domain and pydantic (PyYAML, to read files), nothing else of the project. Decides nothing: no
ledger, no plan, no gate.
"""
