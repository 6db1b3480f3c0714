"""The inference server: Open Inference Protocol v2 over models whose certificates hold.

A process of its own, so that torch never enters the control loop. It believes nothing but a public
key: a model without a valid, unrevoked certificate for these very bytes and this very endpoint is
not loaded. It keeps no
inputs: nothing that a clinical system sends is logged, stored, echoed or counted beyond "one more
    request".
"""
