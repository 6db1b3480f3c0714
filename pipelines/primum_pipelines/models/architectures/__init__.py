"""The networks themselves, as PyTorch modules. Heavy: imported when one is built.

None has batch statistics; every layer is one that the gradient engine has a rule for.
"""
