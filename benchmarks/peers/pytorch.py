"""PyTorch: eager, compiled, and as a CUDA graph.

The gradients of both networks come from one graph of the forward pass, by `autograd.grad`. It
visits only what leads to the parameters that it is given. One fused Adam updates both networks,
since its settings are the same for both.
"""

# pyright: reportMissingImports=false

import functools
from collections.abc import Callable

import numpy as np
import torch
from peers.program import LATENT_DIM, METRICS, PeerError, Program
from torch import nn
from torch.nn.functional import softplus


def make(images: np.ndarray, batch_size: int, variant: str) -> Program:
    """The variant is "eager", "compile", "cuda-graph" or "compile cuda-graph"."""
    if "cuda" in variant and not torch.cuda.is_available():
        raise PeerError("PyTorch sees no CUDA device")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        # TF32, the default of JAX and TensorFlow.
        torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    steps = len(images) // batch_size
    data = torch.from_numpy(images).to(device)
    totals = torch.zeros(len(METRICS), device=device)
    networks = make_generator().to(device), make_discriminator().to(device)
    step = make_step(*networks, data, totals, compiled="compile" in variant)
    if "cuda-graph" in variant:
        step = record(step, batch_size, device)

    def run() -> dict[str, float]:
        order = torch.randperm(len(data), device=device)[: steps * batch_size]
        totals.zero_()
        for indices in order.split(batch_size):
            step(indices)
        return dict(zip(METRICS, (totals / steps).tolist(), strict=True))

    about = f"PyTorch {torch.__version__}, {device}, {torch.get_num_threads()} threads"
    return Program(run, steps, about, (count(networks[0]), count(networks[1])))


def make_generator() -> nn.Module:
    """Latents `[B, 100]` -> images `[B, 784]` in [-1, 1]."""
    layers = []
    for inputs, outputs in ((LATENT_DIM, 64), (64, 128), (128, 256)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 784), nn.Tanh()).apply(initialize)


def make_discriminator() -> nn.Module:
    """Images `[B, 784]` in [-1, 1] -> logits `[B, 1]`."""
    layers = []
    for inputs, outputs, rate in ((784, 256, 0.5), (256, 128, 0.3), (128, 64, 0.2)):
        layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2), nn.Dropout(rate)]
    return nn.Sequential(*layers, nn.Linear(64, 1)).apply(initialize)


def initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def make_step(
    generator, discriminator, data, totals, *, compiled: bool
) -> Callable[[torch.Tensor], None]:
    """A step on the images at the indices `[B]`; it adds its METRICS to the totals `[4]`."""
    networks = [list(network.parameters()) for network in (generator, discriminator)]
    parameters = networks[0] + networks[1]
    adam = torch.optim.Adam(
        parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-7, fused=True, capturable=data.is_cuda
    )

    def gradients(indices):
        real = (data[indices].flatten(1).float() - 127.5) / 127.5
        fake = generator(torch.randn(len(indices), LATENT_DIM, device=data.device))
        fake_logits, real_logits = discriminator(fake), discriminator(real)
        gen_loss = softplus(-fake_logits).mean()
        disc_loss = softplus(-real_logits).mean() + softplus(fake_logits).mean()
        grads = torch.autograd.grad(gen_loss, networks[0], retain_graph=True)
        grads += torch.autograd.grad(disc_loss, networks[1])
        with torch.no_grad():
            scores = real_logits.sigmoid().mean(), fake_logits.sigmoid().mean()
            totals.add_(torch.stack([gen_loss, disc_loss, *scores]))
        return grads

    if compiled:
        # Otherwise autograd.grad breaks the graph. Each of its two calls then runs a whole backward
        # pass, with the gradients of both networks.
        torch._dynamo.config.trace_autograd_ops = True
        gradients = torch.compile(gradients)

    def step(indices):
        for parameter, grad in zip(parameters, gradients(indices), strict=True):
            parameter.grad = grad
        adam.step()

    return step


def record(step, batch_size: int, device) -> Callable[[torch.Tensor], None]:
    """The step as a CUDA graph, which replays all of its kernels in one launch."""
    static_indices = torch.zeros(batch_size, dtype=torch.int64, device=device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # The first steps make arrays, such as Adam's moments. The graph must not make them.
        for _ in range(3):
            step(static_indices)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(static_indices)

    def replay(_step, indices):
        static_indices.copy_(indices)
        graph.replay()

    # The graph writes to the memory of the networks and of Adam, which the step holds.
    return functools.partial(replay, step)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
