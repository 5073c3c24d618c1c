"""The peer: the same dense network by TenSEAL's own vectors, in the same process, at the same security."""

import time

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from primia.encrypted.plan import Plan


class HighLevel:
    """A plan with dense maps on `CKKSVector`, as TenSEAL's tutorials write one, given what helps it.

    It gets the very parameters of our plan (N = 8192, as many levels, the same scale, hence 128-bit security), one
    thread, the folded form (one square for x² + x), and weights converted to `PlainTensor` beforehand. That is the
    most its interface allows: `mm` encodes the diagonals anew in every call. Offsets are a column of the matrices that
    meets a constant 1: what TenSEAL adds to a vector does not reach the copies that its next `mm` reads.
    """

    def __init__(self, plan: Plan) -> None:
        parameters = plan.parameters
        self._context = ts.context(
            ts.SCHEME_TYPE.CKKS,
            parameters.degree,
            coeff_mod_bit_sizes=list(parameters.modulus_bits),
            n_threads=1,
        )
        self._context.global_scale = 2.0**parameters.scale_bits
        self._context.generate_galois_keys()
        self._matrices = []
        for number, (matrix, offset) in enumerate(zip(plan.matrices, plan.offsets, strict=True), 1):
            whole = np.hstack([matrix.toarray(), offset[:, None]])
            if number < len(plan.matrices):  # the 1 is handed on; its square is 1
                whole = np.vstack([whole, np.eye(1, whole.shape[1], whole.shape[1] - 1)])
            self._matrices.append(ts.plain_tensor(whole.T.tolist()))

    def evaluate(self, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Values (columns,) -> decrypted logits (classes,), and the seconds between encryption and decryption."""
        vector = ts.ckks_vector(self._context, [*values.tolist(), 1.0])
        started = time.perf_counter()
        for number, matrix in enumerate(self._matrices):
            if number:
                vector.square_()
            vector.mm_(matrix)
        seconds = time.perf_counter() - started
        return np.asarray(vector.decrypt()), seconds
