"""The loop: phases of steps, evaluations between epochs, checkpoints, and the best weights kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from onnxlr.training.augment import augmented
from onnxlr.training.checkpoint import State, save_state
from onnxlr.training.interruption import deferred
from onnxlr.training.losses import activation_loss, overlap
from onnxlr.training.schedule import make_optimizer, set_rate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from onnxlr.progress import Progress
    from onnxlr.training.augment import Augmentation
    from onnxlr.training.data import Order, Samples
    from onnxlr.training.options import TrainOptions
    from onnxlr.training.task import Task

    Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

_AUGMENT = 1  # tells the stream of random numbers for augmentation from those for the order


@dataclass(frozen=True, slots=True, eq=False)
class Phase:
    """A part of a run: the order of its steps and the peak learning rate of every weight it trains.

    ``blockwise``: each block is trained alone, for the teacher's activation behind it.
    """

    stage: str
    order: Order
    rates: Mapping[str, float]
    blockwise: bool


@dataclass(slots=True, eq=False)
class Trainer:
    """Runs phases from a state on; ``targets`` are the teacher's outputs for the training part where they are kept."""

    task: Task
    phases: Sequence[Phase]
    options: TrainOptions
    augment: Sequence[Augmentation]
    targets: Mapping[str, Tensor] | None
    learning: frozenset[str]
    checkpoint: Path | None
    fingerprint: str
    progress: Progress
    _outputs: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._outputs = tuple(block.output for block in self.task.blocks)

    def run(self, state: State) -> State:
        """Run what is left of all phases; the returned state holds the best weights.

        Raises
        ------
        KeyboardInterrupt
            When the process is asked to stop; the checkpoint then holds the last step done.
        """
        with deferred() as interruption:
            while state.phase < len(self.phases):
                phase = self.phases[state.phase]
                self._put(state.weights)
                parameters = self._enable(phase)
                optimizer = make_optimizer({self._weight(n): r for n, r in phase.rates.items()}, self.options)
                if state.optimizer is not None:
                    optimizer.load_state_dict(state.optimizer)
                ends, steps = phase.order.ends() | {0}, phase.order.steps
                while True:
                    if interruption.asked:
                        self._save(state, optimizer)
                        raise KeyboardInterrupt
                    if state.step in ends and state.evaluated != state.step:
                        self._judge(state)
                    if state.step == steps or self._waited_enough(state, phase):
                        break
                    self._step(phase, optimizer, parameters, state.step)
                    state.step += 1
                    self.progress(phase.stage, state.step / steps)
                    if state.step % self.options.checkpoint_every == 0:
                        self._save(state, optimizer)
                state.phase, state.step, state.evaluated, state.waited = state.phase + 1, 0, 0, 0
                state.optimizer = None
                state.weights = {name: value.clone() for name, value in state.best.items()}
        self._put(state.best)
        return state

    def _waited_enough(self, state: State, phase: Phase) -> bool:
        return bool(self.options.patience) and not phase.blockwise and state.waited >= self.options.patience

    def _judge(self, state: State) -> None:
        """Evaluate, and keep the weights if they are the best so far."""
        self.task.student.learning = frozenset()
        loss = self.task.evaluate().loss
        state.history.append((state.phase, state.step, loss))
        state.evaluated = state.step
        if loss < state.best_loss:
            state.best_loss, state.waited = loss, 0
            state.best = self._weights(state)
        elif state.step:  # before the first one there was nothing to gain by
            state.waited += 1

    def _step(
        self, phase: Phase, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], step: int
    ) -> None:
        set_rate(optimizer, step, phase.order.steps)
        chosen = phase.order.at(step)
        drawn = self.task.train.take(chosen)
        moved = augmented(drawn.inputs, self.augment, (*phase.order.seed, _AUGMENT, step))
        samples = replace(drawn, inputs=moved)
        self.task.student.learning = frozenset() if phase.blockwise else self.learning

        def gradients(part: slice) -> tuple[Tensor | None, ...]:
            share = (part.stop - part.start) / len(chosen)
            loss = share * self._loss(phase, samples.take(part), chosen[part])
            return torch.autograd.grad(loss, parameters, allow_unused=True)

        found = self.task.workers.each(gradients, self.task.workers.parts(len(chosen)))
        for parameter, parts in zip(parameters, zip(*found, strict=True), strict=True):
            known = [part for part in parts if part is not None]
            parameter.grad = torch.stack(known).sum(0) if len(known) > 1 else known[0] if known else None
        nn.utils.clip_grad_norm_(parameters, self.options.clip)
        optimizer.step()

    def _loss(self, phase: Phase, samples: Samples, chosen: Indices) -> Tensor:
        """Return the mean loss of some samples, those of the training part at ``chosen``, augmented."""
        task, options, inputs = self.task, self.options, samples.inputs
        if phase.blockwise:
            assert task.teacher is not None
            with torch.no_grad():
                wanted = task.teacher(inputs, self._outputs)
            found = task.student(inputs, self._outputs, cut=self._outputs)
            return activation_loss(task.scales, found, wanted) + self._penalty()
        also = self._outputs if options.activation_weight else ()
        found = task.student(inputs, [*task.student.outputs, *also])
        targets = self._targets(inputs, chosen, also)
        loss = task.criterion(found, targets, samples.labels)
        if also and targets is not None:
            loss = loss + options.activation_weight * activation_loss(task.scales, found, targets)
        return loss + self._penalty()

    def _targets(
        self, inputs: Mapping[str, Tensor], chosen: Indices, also: Sequence[str]
    ) -> Mapping[str, Tensor] | None:
        if self.targets is not None:
            index = torch.from_numpy(chosen)
            return {name: value[index] for name, value in self.targets.items()}
        if self.task.teacher is None:
            return None
        with torch.no_grad():
            found: dict[str, Tensor] = self.task.teacher(inputs, [*self.task.teacher.outputs, *also])
        return found

    def _penalty(self) -> Tensor:
        """Return the weighted overlap of basis filters."""
        bases = [block.basis for block in self.task.blocks] if self.options.orthogonality else []
        parts = [overlap(self._weight(name)) for name in bases if name is not None]
        return self.options.orthogonality * torch.stack(parts).sum() if parts else torch.zeros(())

    def _enable(self, phase: Phase) -> list[nn.Parameter]:
        """Let gradients reach the weights of a phase, and no others."""
        for parameter in self.task.student.parameters():
            parameter.requires_grad = False
            parameter.grad = None
        chosen = [self._weight(name) for name in phase.rates]
        for parameter in chosen:
            parameter.requires_grad = True
        return chosen

    def _weight(self, name: str) -> nn.Parameter:
        return self.task.student.weight(name)

    def _weights(self, state: State) -> dict[str, Tensor]:
        return {name: self._weight(name).detach().clone() for name in state.weights}

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in weights.items():
                self._weight(name).copy_(value)

    def _save(self, state: State, optimizer: torch.optim.Optimizer) -> None:
        if self.checkpoint is None:
            return
        state.weights, state.optimizer = self._weights(state), optimizer.state_dict()
        save_state(self.checkpoint, self.fingerprint, state)
