"""What happens to the noisy sums: optimizer, learning rate, averaging, kept iterates.

Post-processing of released sums: nothing here may be given anything else of the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.optimization.langevin import missing_std
from primum_pipelines.optimization.randomness import RandomSource, add_noise
from primum_pipelines.optimization.settings import Descent

_AVERAGE_START = 10  # De et al. 2022: decay min(d, (1 + t) / (10 + t)), so that the start fades.


class NoiseCorrectedAdam(torch.optim.Optimizer):  # type: ignore[misc] # torch is not followed
    """Adam whose second moments are freed of the noise's known variance (DP-AdamBC, algorithm 1).

    Args:
        parameters: What to train.
        lr: Step size.
        variance: Of the noise on each coordinate of the mean gradient.
        floor: Least denominator's square.
        weight_decay: Decoupled, times the step size.
    """

    def __init__(
        self,
        parameters: Any,
        *,
        lr: float,
        variance: float,
        floor: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "variance": variance, "floor": floor, "weight_decay": weight_decay}
        super().__init__(parameters, {**defaults, "betas": (0.9, 0.999)})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: None = None) -> None:  # noqa: ARG002 - torch's signature
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                mean, square = state["exp_avg"], state["exp_avg_sq"]
                mean.mul_(first).add_(parameter.grad, alpha=1 - first)
                square.mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                fair = square / (1 - second ** state["step"]) - group["variance"]
                moved = mean / (1 - first ** state["step"]) / fair.clamp_min(group["floor"]).sqrt()
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(moved, alpha=-group["lr"])


class Mover:
    """Moves a model by noisy sums.

    Args:
        module: The model.
        named: Its trainable parameters.
        divisor: Public: expected number of units in a batch.
        units: Public: expected number of units in all.
        noise_std: Of the noise on each coordinate of a sum.
        source: Draws what Langevin dynamics add.
        optimizer: ``SGD`` or ``Adam``.
        learning_rate: Step size before the schedule.
        momentum: For SGD.
        descent: Schedule, averaging, decay.
        steps: Planned steps.

    Raises:
        InvalidValue: If the optimizer is another one.
    """

    def __init__(
        self,
        module: nn.Module,
        named: Mapping[str, nn.Parameter],
        *,
        divisor: float,
        units: int,
        noise_std: float,
        source: RandomSource,
        optimizer: str,
        learning_rate: float,
        momentum: float,
        descent: Descent,
        steps: int,
    ) -> None:
        self._module = module
        self._named = named
        self._divisor = divisor
        self._units = units
        self._gradient_std = noise_std / divisor
        self._source = source
        self._descent = descent
        self._learning_rate = learning_rate
        self._steps = steps
        self._done = 0
        self._optimizer = _optimizer(
            list(named.values()),
            name=optimizer,
            lr=learning_rate,
            momentum=momentum,
            descent=descent,
            variance=(noise_std / divisor) ** 2,
        )
        self._average = (
            {name: p.detach().clone() for name, p in named.items()} if descent.averaging else None
        )
        self.iterates: list[dict[str, torch.Tensor]] = []

    def move(self, noisy: Mapping[str, torch.Tensor]) -> None:
        """One step along the noisy sums over the expected batch; the sums are used up."""
        rate = self._descent.rate_at(self._done, steps=self._steps) * self._learning_rate
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        more = self._missing(rate)
        for name, parameter in self._named.items():
            parameter.grad = noisy[name].div_(self._divisor)
            if more:
                add_noise(self._source, parameter.grad, std=more)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._done += 1
        self._follow()

    def finite(self) -> bool:
        """Whether every weight is still a number."""
        return all(bool(torch.isfinite(p.detach().sum())) for p in self._named.values())

    def finish(self) -> None:
        """Give the model the weights that are released."""
        if self._average is not None:
            with torch.no_grad():
                for name, parameter in self._named.items():
                    parameter.copy_(self._average[name])

    @contextmanager
    def released(self) -> Iterator[nn.Module]:
        """The model as it would be released now, for as long as the block takes."""
        trained = {name: p.detach().clone() for name, p in self._named.items()}
        training = self._module.training
        self.finish()
        self._module.eval()
        try:
            yield self._module
        finally:
            self._module.train(training)
            with torch.no_grad():
                for name, parameter in self._named.items():
                    parameter.copy_(trained[name])

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on from here."""
        return {
            "done": self._done,
            "optimizer": self._optimizer.state_dict(),
            "average": self._average,
            "iterates": self.iterates,
        }

    def restore(self, state: Mapping[str, Any], *, executed: int) -> None:
        """Go on from a state that ``state`` gave, at the step that is due.

        Schedule and averaging go on where they would be now, and an iterate that was to be kept on
        the way is this state: so the last step has the last rate, and none is missing.

        Args:
            state: The state; the model must have its weights.
            executed: Steps that count as executed, at least those of the state.
        """
        done = int(state["done"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average = state["average"]
        self.iterates = list(state["iterates"])
        for step in range(done + 1, executed + 1):
            self._keep(step)
        self._done = executed

    def _missing(self, rate: float) -> float:
        if not self._descent.temperature:
            return 0.0
        return missing_std(
            learning_rate=rate,
            units=self._units,
            temperature=self._descent.temperature,
            gradient_std=self._gradient_std,
        )

    def _follow(self) -> None:
        if self._average is not None:
            decay = min(self._descent.averaging, (1 + self._done) / (_AVERAGE_START + self._done))
            with torch.no_grad():
                for name, parameter in self._named.items():
                    self._average[name].lerp_(parameter.detach(), 1 - decay)
        self._keep(self._done)

    def _keep(self, step: int) -> None:
        if step in _kept_steps(self._steps, self._descent.samples):
            state = {n: v.detach().clone() for n, v in self._module.state_dict().items()}
            self.iterates.append(state)


def _kept_steps(steps: int, samples: int) -> set[int]:
    """Steps after which an iterate is kept: evenly over the last half, the last one included."""
    return {steps - (steps // 2) * at // samples for at in range(samples)}


def _optimizer(
    parameters: list[nn.Parameter],
    *,
    name: str,
    lr: float,
    momentum: float,
    descent: Descent,
    variance: float,
) -> torch.optim.Optimizer:
    decay = descent.weight_decay
    match name:
        case "SGD":
            return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay)
        case "Adam" if descent.noise_correction:
            return NoiseCorrectedAdam(parameters, lr=lr, variance=variance, weight_decay=decay)
        case "Adam":
            return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)
        case other:
            raise InvalidValue("optimizer", "must be SGD or Adam", other)
