"""What quantised training is doing: shares of trits, flips, and activation scales of each layer."""

from typing import Any

import torch
from torch import Tensor, nn

from tritserve.model.network.bitlinear import BitLinear, quantize_activations


class Monitor:
    """Watches the BitLinear layers of a module that are trained.

    Measuring unpacks every weight, so it is done now and then, not at each step.
    """

    def __init__(self, module: nn.Module) -> None:
        self._layers = {
            name: layer
            for name, layer in module.named_modules()
            if isinstance(layer, BitLinear)
            and layer.quantize != "none"
            and layer.weight.requires_grad
        }
        self._trits: dict[str, Tensor] = {}
        self._step = 0

    def measure(self, step: int, encode: nn.Module, *inputs: Tensor) -> dict[str, dict[str, float]]:
        """Figures of each layer since the last measurement.

        Args:
            step: how many steps have been taken.
            encode: the module that the layers are in; it is called on the inputs.
            *inputs: of a batch.

        Returns:
            By layer: `zeros` and `positives`, shares of the weights; `weight_scale`;
            `activation_scale`, the mean over the inputs; and, from the second measurement on,
            `flips`: the share of weights that changed, per step.
        """
        scales = self._activation_scales(encode, *inputs)
        figures: dict[str, dict[str, float]] = {}
        for name, layer in self._layers.items():
            with torch.no_grad():
                trits, scale = layer.integer_weight()
            figures[name] = {
                "zeros": (trits == 0).float().mean().item(),
                "positives": (trits > 0).float().mean().item(),
                "weight_scale": scale.item(),
                "activation_scale": scales[name],
            }
            if name in self._trits and step > self._step:
                changed = (trits != self._trits[name]).float().mean().item()
                figures[name]["flips"] = changed / (step - self._step)
            self._trits[name] = trits
        self._step = step
        return figures

    def state(self) -> dict[str, Any]:
        """What the next measurement compares with."""
        return {"step": self._step, "trits": self._trits}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what `state` gave."""
        self._step, self._trits = state["step"], state["trits"]

    def _activation_scales(self, encode: nn.Module, *inputs: Tensor) -> dict[str, float]:
        """Mean activation scale of each layer when `encode` is called on `inputs`."""
        scales: dict[str, float] = {}

        def watch(name: str, layer: BitLinear) -> torch.utils.hooks.RemovableHandle:
            def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
                scales[name] = quantize_activations(layer.normalized(arguments[0]))[1].mean().item()

            return layer.register_forward_pre_hook(hook)

        handles = [watch(name, layer) for name, layer in self._layers.items()]
        was_training = encode.training
        try:
            with torch.no_grad():
                encode.eval()(*inputs)
        finally:
            encode.train(was_training)
            for handle in handles:
                handle.remove()
        return scales
