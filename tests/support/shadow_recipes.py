"""Recipes of shadows, as the parameters of a plan have them."""

from __future__ import annotations

_PLAIN = {
    "algorithm": "DPSGD",
    "noiseMultiplier": "1.0",
    "sampleRate": "0.5",
    "steps": 4,
    "maxGradNorm": "1.0",
    "clipping": "Flat",
    "learningRate": "1.0",
    "momentum": "0",
    "optimizer": "SGD",
    "gradients": "Auto",
    "schedule": "Constant",
    "warmUp": "0",
    "averaging": "0",
    "weightDecay": "0",
    "biasAware": "0",
    "loss": "CrossEntropy",
    "trainable": "All",
    "precision": "Float32",
    "trainUnits": 100,
}


def recipe(**changed):
    """``recipe(steps=4, clipping="PerLayer")``."""
    return {**_PLAIN, **changed}
