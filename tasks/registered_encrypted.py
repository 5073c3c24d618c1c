"""The encrypted network as MLflow loads it: it answers on ciphertexts it cannot read; without pickle and torch."""

from pathlib import Path
from typing import Any

import mlflow
import msgpack
import pandas as pd
from mlflow.pyfunc import PythonModel

from primia.encrypted.bundle import load_bundle
from primia.encrypted.engine import Engine
from primia.errors import EncryptionError

MOST_CIPHERTEXTS = 256


class EncryptedClassifier(PythonModel):  # type: ignore[misc]
    """One row a question: `keys`, the evaluation keys, and `ciphertexts`, a msgpack list of them, both bytes.

    Gives a column `answer`: the encrypted logits, which the secret key decrypts. Keys and ciphertexts are those that
    `primia.encrypted.ckks.Scheme` makes for the parameters in the bundle.
    """

    def load_context(self, context: Any) -> None:
        """Encode the weights of the bundle that was registered as the artifact `encrypted`."""
        self.engine = Engine(load_bundle(Path(context.artifacts["encrypted"])).plan)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Evaluate each question.

        Raises:
            EncryptionError: keys or ciphertexts are not those of this model.
        """
        answers: list[bytes] = []
        # Keys take tens of MB: those of one client are read once, and one client's at a time are in memory.
        last, keys = b"", None
        for row in model_input[["keys", "ciphertexts"]].itertuples(index=False):
            if keys is None or row.keys != last:
                last, keys = row.keys, self.engine.scheme.load_keys(row.keys)
            answers.append(self.engine.evaluate(_ciphertexts(row.ciphertexts), keys))
        return pd.DataFrame({"answer": answers}, index=model_input.index)


def _ciphertexts(content: bytes) -> list[bytes]:
    try:
        listed = msgpack.unpackb(content, max_array_len=MOST_CIPHERTEXTS, max_map_len=0, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise EncryptionError("A question's ciphertexts are no msgpack list; pack them with msgpack.packb.") from error
    if not isinstance(listed, list) or not all(isinstance(one, bytes) for one in listed):
        raise EncryptionError("A question's ciphertexts are no list of bytes; pack a list with msgpack.packb.")
    return listed


mlflow.models.set_model(EncryptedClassifier())
