"""Multilayer perceptrons with one set of weights per element."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax.config import UserError

Activation = Callable[[Array], Array]


def shifted_softplus(x: Array) -> Array:
    """`ln((1 + e^x) / 2)`, which is zero at zero; Schütt et al. (2017), section 4.1."""
    return jax.nn.softplus(x) - math.log(2.0)


ACTIVATIONS: dict[str, Activation] = {
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "shifted_softplus": shifted_softplus,
    "gelu": jax.nn.gelu,
    "sigmoid": jax.nn.sigmoid,
    "gaussian": lambda x: jnp.exp(-0.5 * x * x),
    "cosine": jnp.cos,
    "linear": lambda x: x,
}
"""Smooth activations by name; those without a continuous derivative would break the forces."""


class ElementMLP(nn.Module):
    """A network from the features of an atom to one number, with weights of its element.

    Every layer holds one stack `[elements, in, out]`. All networks are evaluated for all atoms and
    the atom's own is picked at the end: narrow layers cost less than a gather of weights, whose
    transpose is a scatter.

    Attributes:
        hidden: widths of the hidden layers.
        activation: name of the activation, see `ACTIVATIONS`; or one name for each hidden layer.
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: str | tuple[str, ...] = "tanh"

    @nn.compact
    def __call__(
        self, features: Float[Array, "atoms features"], element: Int[Array, " atoms"], elements: int
    ) -> Float[Array, " atoms"]:
        """Output of each atom's network.

        Args:
            features: inputs.
            element: index of each atom's element.
            elements: number of elements.
        """
        activations = self._activations()
        x = jnp.broadcast_to(features[None], (elements, *features.shape))
        widths = (*self.hidden, 1)
        for layer, width in enumerate(widths):
            kernel, bias = self._parameters(layer, elements, x.shape[-1], width)
            x = jnp.matmul(x, kernel.astype(x.dtype)) + bias.astype(x.dtype)[:, None, :]
            x = activations[layer](x) if layer < len(self.hidden) else x
        if elements == 1:
            return x[0, :, 0]
        return jnp.einsum("en,ne->n", x[..., 0], jax.nn.one_hot(element, elements, dtype=x.dtype))

    def _activations(self) -> list[Activation]:
        names = self.activation
        if isinstance(names, str):
            names = (names,) * len(self.hidden)
        if len(names) != len(self.hidden):
            raise UserError(
                f"activation: got {len(names)} names for {len(self.hidden)} hidden layers; "
                "expected one for each, or one name for all."
            )
        return [activation(name) for name in names]

    def _parameters(self, layer: int, elements: int, inputs: int, outputs: int):
        kernel = nn.initializers.lecun_normal(batch_axis=(0,))
        shape = (elements, inputs, outputs)
        return (
            self.param(f"kernel_{layer}", kernel, shape),
            self.param(f"bias_{layer}", nn.initializers.zeros, (elements, outputs)),
        )


def activation(name: str, where: str = "activation") -> Activation:
    """An activation by its name, see `ACTIVATIONS`.

    Raises:
        UserError: for an unknown name; it names the field `where`.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"{where}: got {name!r}; expected one of {sorted(ACTIVATIONS)}.")
    return ACTIVATIONS[name]
