"""The registered model as MLflow loads it: from this code and safetensors files, without pickle."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel

from primia.models.released import load_model


class PrimiaModel(PythonModel):  # type: ignore[misc]
    """Images (n, 1, *shape) in [0, 1] in, probabilities (n, classes), or of pixels (n, classes, *shape), out."""

    def load_context(self, context: Any) -> None:
        """Read the federated model that was registered as the artifact `federated`."""
        self.model = load_model(Path(context.artifacts["federated"]))

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Probabilities in the class order of the model."""
        import torch

        return self.model.probabilities(torch.from_numpy(np.asarray(model_input, dtype=np.float32))).numpy()


mlflow.models.set_model(PrimiaModel())
