"""The compliance officer's pages: made on the server, readable without a script or the internet.

Whoever is signed in sees what the API would show the same roles, and nothing more. A page spends
nothing and changes nothing; the one thing it can start is a verification.
"""
