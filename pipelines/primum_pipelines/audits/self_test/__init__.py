"""Mechanism self-tests: does the code that adds the noise do what the plan says?

Toy tasks whose answer is known are run through the very algorithm a Study runs. Nothing here sees
patient data. Heavy: import inside functions only.
"""
