"""The devices of a fit: one or several in data parallel, and deterministic sums."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from lineage.errors import Fault

log = logging.getLogger(__name__)


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and the backend, and forbid kernels whose sums depend on the order of threads."""
    import keras

    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def select_devices(count: int, batch_size: int) -> tuple[str, ...]:
    """The devices of a fit by `fit.devices`: that many of this machine, or for 0 all GPUs, or one CPU without a GPU.

    Several devices share every batch equally, which Keras supports only on JAX: with 0 a fit on TensorFlow takes one
    GPU. Raises Fault for more devices than there are, a batch that cannot be divided, or several on TensorFlow.
    """
    import keras

    available = tuple(str(name) for name in keras.distribution.list_devices()) or ("cpu",)
    is_jax = keras.backend.backend() == "jax"
    if count < 0 or count > len(available):
        raise Fault(
            f"fit.devices is {count}, but this machine has {len(available)} ({', '.join(available)}); set it to 0 to "
            "use what is available"
        )
    if count > 1 and not is_jax:
        raise Fault(f"fit.devices {count} needs JAX: set KERAS_BACKEND=jax, or fit.devices to 1")
    has_gpu = not available[0].lower().startswith("cpu")
    selected_count = count or (len(available) if has_gpu and is_jax else 1)
    if batch_size % selected_count:
        raise Fault(
            f"fit.batch_size {batch_size} can't be divided among {selected_count} devices; "
            f"take a multiple of {selected_count}"
        )
    return available[:selected_count]


@contextmanager
def data_parallel(devices: tuple[str, ...]) -> Iterator[None]:
    """Within this context a network has its weights, and a share of each batch, on every device."""
    import keras

    if len(devices) == 1:
        yield
        return
    log.info("fit on %d devices: %s", len(devices), ", ".join(devices))
    with keras.distribution.DataParallel(devices=list(devices)).scope():
        yield
