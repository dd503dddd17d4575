"""How a training step works on a batch that is split over devices."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

_Step = TypeVar("_Step", bound=Callable[..., Any])


def on_any_mesh(train_step: _Step) -> _Step:
    """Lets a `train_step(state, batch, rng)` take arrays on a mesh with explicit axes.

    With explicit axes, jax needs a sharding for the result of each sum over a split batch. Here the
    axes are automatic inside the step, and its results are replicated. The mesh is found when the
    step is traced.
    """

    @functools.wraps(train_step)
    def step(state: Any, batch: Any, rng: jax.Array, **options: Any) -> Any:
        run = functools.partial(train_step, **options)
        meshes = (jax.typeof(x).sharding.mesh for x in jax.tree.leaves((state, batch, rng)))
        mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
        if mesh is not None:
            whole = NamedSharding(mesh, PartitionSpec())
            auto_axes: Any = jax.sharding.auto_axes
            run = auto_axes(run, axes=mesh.explicit_axes, out_sharding=whole)
        return run(state, batch, rng)

    return step  # pyright: ignore


class Shards(NamedTuple):
    """The shards of a batch, by the name of their mesh axis; without a name there is one shard."""

    axis_name: str | None = None

    @property
    def number(self) -> int:
        """The number of shards."""
        return 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)

    def mean(self, tree: Any) -> Any:
        """The tree with the means over the shards in place of its floating-point leaves."""

        def mean(x: jax.Array) -> jax.Array:
            return jax.lax.pmean(x, self.axis_name) if jnp.issubdtype(x.dtype, jnp.inexact) else x

        return tree if self.axis_name is None else jax.tree.map(mean, tree)

    def sum(self, tree: Any) -> Any:
        """The tree with the sums over the shards in place of its leaves."""
        return tree if self.axis_name is None else jax.lax.psum(tree, self.axis_name)

    def vary(self, tree: Any) -> Any:
        """A replicated tree whose gradients are those of this shard alone."""
        if self.axis_name is None:
            return tree
        if hasattr(jax.lax, "pcast"):
            return jax.tree.map(lambda x: jax.lax.pcast(x, self.axis_name, to="varying"), tree)
        pvary: Any = getattr(jax.lax, "pvary")  # noqa: B009 (of jax before 0.9)
        return jax.tree.map(lambda x: pvary(x, self.axis_name), tree)

    def value_and_grad(self, loss: Callable[..., tuple[jax.Array, Any]]) -> Callable[..., Any]:
        """`jax.value_and_grad` of a loss with auxiliary outputs, over the whole batch.

        The loss is a mean over this shard. Value and gradients are means over all shards; the
        auxiliary outputs are those of this shard.
        """

        # `shard_map` sums the gradients of replicated parameters. So the mean over the shards is
        # taken inside the differentiated function. A mean of the gradients alone would be too
        # large.
        def mean_loss(*args: Any) -> tuple[jax.Array, Any]:
            value, auxiliary = loss(*args)
            return self.mean(value), auxiliary

        differentiate = jax.value_and_grad(mean_loss, has_aux=True)

        def value_and_grad(*args: Any) -> Any:
            outputs, grads = differentiate(*args)
            return outputs, self.mean(grads)

        return value_and_grad

    def fold_in(self, rng: jax.Array) -> jax.Array:
        """The key of this shard."""
        if self.axis_name is None:
            return rng
        return jax.random.fold_in(rng, jax.lax.axis_index(self.axis_name))

    def rows(self, draw: Callable[[int], jax.Array], n: int) -> jax.Array:
        """This shard's n rows of what `draw` gives for the whole batch, `[B, ...]`.

        Without shards it is `draw(n)`. So a batch gets the same random numbers with and without.
        """
        if self.axis_name is None:
            return draw(n)
        start = jax.lax.axis_index(self.axis_name) * n
        return jax.lax.dynamic_slice_in_dim(draw(self.number * n), start, n)
