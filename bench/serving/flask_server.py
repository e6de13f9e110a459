"""A common way to serve such a model, for comparison: Flask, Keras' `predict`, Grad-CAM by gradient tape.

    NETWORK=network.keras flask --app bench/serving/flask_server.py run
    NETWORK=network.keras gunicorn --workers 2 --pythonpath bench/serving flask_server:app

Written as in tutorials: an image is read by `load_img`, a DICOM file by pydicom with a window.
"""

from __future__ import annotations

import base64
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pydicom
import tensorflow as tf
from flask import Flask, jsonify, request
from PIL import Image

CUSTOM_LAYERS = {
    "Scaled": keras.layers.Rescaling,
    "BatchNormalization": keras.layers.BatchNormalization,
}  # as in tutorials
network = keras.models.load_model(os.environ["NETWORK"], custom_objects=CUSTOM_LAYERS)
SIZE = network.input_shape[1]
grad_model = keras.Model(network.input, [network.get_layer("features").output, network.output])
app = Flask(__name__)


@app.get("/healthz")
def healthy() -> str:
    """Say that the server is ready."""
    return "ok"


@app.post("/predict")
def predict() -> Any:
    """Probabilities and the heat map of the most probable class, for each file of the request in turn."""
    answers = [_predict_file(file.filename or "", file.read()) for file in request.files.getlist("files")]
    return jsonify(answers)


def _predict_file(name: str, content: bytes) -> dict[str, Any]:
    image = _read_dicom(content) if name.endswith(".dcm") else _read_jpeg(content)
    logits = network.predict(image[None], verbose=0)
    probabilities = tf.nn.softmax(logits)[0].numpy()
    heat = _grad_cam(image, int(probabilities.argmax()))
    return {"probabilities": probabilities.tolist(), "map": _encode_png(heat)}


def _read_jpeg(content: bytes) -> Any:
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        Path(file.name).write_bytes(content)
        image = keras.utils.load_img(file.name, color_mode="grayscale", target_size=(SIZE, SIZE))
    return keras.utils.img_to_array(image) / 255


def _read_dicom(content: bytes) -> Any:
    header = pydicom.dcmread(io.BytesIO(content))
    values = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
    windowed = np.clip((values + 1150) / 1500, 0, 1)[..., None]
    return tf.image.resize(windowed, (SIZE, SIZE)).numpy()


def _grad_cam(image: Any, index: int) -> Any:
    """Selvaraju et al., ICCV 2017."""
    with tf.GradientTape() as tape:
        maps, logits = grad_model(image[None])
        score = logits[:, index]
    weights = tf.reduce_mean(tape.gradient(score, maps), axis=(1, 2))
    heat = tf.nn.relu(tf.reduce_sum(maps[0] * weights[0], axis=-1))
    return (heat / (tf.reduce_max(heat) + 1e-8)).numpy()


def _encode_png(heat: Any) -> str:
    stream = io.BytesIO()
    Image.fromarray((heat * 255).astype(np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
