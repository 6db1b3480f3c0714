"""What runs inside pods.

Job kinds, their heavy halves, and the small step runtime that talks to ports.

Sees only ``primum.domain`` and ``primum.signing`` of the platform. A kind's light half never
imports its heavy half.
"""
