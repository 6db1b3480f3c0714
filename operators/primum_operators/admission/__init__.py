"""Policy at the door of the API server: rules as data, evaluated in two places.

``policies`` holds the rules once. The chart makes ValidatingAdmissionPolicies of them
(``chart``); the validating webhook evaluates the same expressions (``review``) and adds what CEL in
the API server cannot see: the ledger, the Releases, another person's rights. Must not decide
anything about budgets: the ledger does.
"""
