"""What a fit computes on: one device or several side by side, and sums that come in one order."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from lineage.errors import Fault

log = logging.getLogger(__name__)


def deterministic(seed: int) -> None:
    """One seed for Python, NumPy and the backend, and no kernel whose sums depend on the order of threads."""
    import keras

    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def chosen(count: int, batch_size: int) -> tuple[str, ...]:
    """The devices of a fit by `fit.devices`: so many of this machine, or for 0 all its GPUs; without one, one CPU.

    Several of them take part in every batch alike, which Keras can do on JAX alone: under 0 a fit on TensorFlow takes
    one GPU. Raises Fault for more devices than there are, a batch that can't be divided, or several on TensorFlow.
    """
    import keras

    found = tuple(str(name) for name in keras.distribution.list_devices()) or ("cpu",)
    parallel = keras.backend.backend() == "jax"
    if count < 0 or count > len(found):
        raise Fault(
            f"fit.devices is {count}, but this machine has {len(found)} ({', '.join(found)}); set it to 0 for "
            "what there is"
        )
    if count > 1 and not parallel:
        raise Fault(f"fit.devices {count} needs JAX: set KERAS_BACKEND=jax, or fit.devices to 1")
    graphic = not found[0].lower().startswith("cpu")
    wanted = count or (len(found) if graphic and parallel else 1)
    if batch_size % wanted:
        raise Fault(f"fit.batch_size {batch_size} can't be divided among {wanted} devices; take a multiple of {wanted}")
    return found[:wanted]


@contextmanager
def side_by_side(devices: tuple[str, ...]) -> Iterator[None]:
    """What is built and fitted inside has its weights on every device, and a share of each batch there."""
    import keras

    if len(devices) == 1:
        yield
        return
    log.info("fits on %d devices: %s", len(devices), ", ".join(devices))
    with keras.distribution.DataParallel(devices=list(devices)).scope():
        yield
