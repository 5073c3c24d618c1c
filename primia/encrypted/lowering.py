"""From a polynomial network to sparse affine maps with squarings between them, by exact folding."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array, eye_array

from primia.encrypted.layout import Floats
from primia.errors import EncryptionError

if TYPE_CHECKING:  # the server never loads torch
    from torch import Tensor, nn

    from primia.models.polynomial import PolynomialNetwork

MOST_WEIGHTS = 1 << 24  # of one map; some 200 MB
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Affine:
    """values -> matrix @ values + offset.

    label: the layers it stands for, with their numbers in the network; shape: (channels, height, width) of the
    result; stride: how far a step in the result is in the input, None for a map that knows no grid.
    """

    matrix: csr_array
    offset: Floats
    label: str
    shape: Shape
    stride: tuple[int, int] | None


@dataclass
class _Run:
    """The linear layers met since the last quadratic."""

    shape: Shape
    flat: bool
    matrix: csr_array | None = None
    offset: Floats | None = None
    stride: tuple[int, int] | None = (1, 1)
    labels: tuple[str, ...] = ()

    def then(self, matrix: csr_array, offset: Floats) -> None:
        if self.matrix is not None and self.offset is not None:
            offset = matrix @ self.offset + offset
            matrix = csr_array(matrix @ self.matrix)
        self.matrix, self.offset = matrix, offset

    def affine(self, *, first: bool, last: bool) -> Affine:
        """Close the run; x² + x = (x + 1/2)² - 1/4 leaves 1/2 to the map before and -1/4 to the map after."""
        count = int(np.prod(self.shape))
        matrix = csr_array(eye_array(count)) if self.matrix is None else csr_array(self.matrix)
        offset = np.zeros(count) if self.offset is None else self.offset
        if not first:
            offset = offset - 0.25 * np.asarray(matrix.sum(axis=1)).ravel()
        if not last:
            offset = offset + 0.5
        label = " + ".join(self.labels) or "identity"
        return Affine(canonical(matrix), np.ascontiguousarray(offset), label, self.shape, self.stride)


def canonical(matrix: csr_array) -> csr_array:
    """The one form in which equal matrices have equal bytes: float64, int64 indices in order, no zeros stored."""
    matrix = csr_array(
        (matrix.data.astype(np.float64), matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)),
        shape=matrix.shape,
    )
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def lower(network: "PolynomialNetwork") -> tuple[Affine, ...]:
    """Every run of linear layers between two quadratics as one map; batch-norms and constants are folded.

    Raises:
        EncryptionError: a layer is not of the grammar or does not fit what comes before it; names it.
    """
    from primia.models.polynomial import Quadratic

    run = _Run(shape=network.shape, flat=False)
    maps: list[Affine] = []
    for index, layer in enumerate(network.body):
        name = f"{index} ({type(layer).__name__})"
        if isinstance(layer, Quadratic):
            maps.append(run.affine(first=not maps, last=False))
            run = _Run(shape=run.shape, flat=run.flat)
            continue
        _add(run, layer, name)
        run.labels = (*run.labels, name)
    maps.append(run.affine(first=not maps, last=True))
    return tuple(maps)


def _add(run: _Run, layer: "nn.Module", name: str) -> None:
    from torch import nn

    if isinstance(layer, nn.Flatten):
        _require(layer.start_dim == 1 and layer.end_dim == -1, name, "flattens some axes only; flatten all of them")
        run.flat = True
    elif isinstance(layer, nn.Linear):
        _require(run.flat, name, "meets values on a grid; put a Flatten before it")
        _fits(name, layer.in_features, int(np.prod(run.shape)))
        run.then(csr_array(_floats(layer.weight)), _bias(layer.bias, layer.out_features))
        run.shape, run.stride = (layer.out_features, 1, 1), None
    elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        _require(isinstance(layer, nn.BatchNorm1d) == run.flat, name, "meets values of another form than it normalises")
        _require(layer.running_var is not None, name, "keeps no running statistics; train it with track_running_stats")
        channels = int(np.prod(run.shape)) if run.flat else run.shape[0]
        _fits(name, layer.num_features, channels)
        factor, shift = _normalisation(layer)
        repeat = int(np.prod(run.shape)) // channels
        run.then(csr_array(diags_array(np.repeat(factor, repeat))), np.repeat(shift, repeat))
    elif isinstance(layer, nn.Conv2d):
        _convolve(run, layer, name)
    elif isinstance(layer, nn.AvgPool2d):
        _pool(run, layer, name)
    else:
        raise EncryptionError(
            f"Layer {name} cannot be evaluated on encrypted images; build the network of Conv2d, Linear, AvgPool2d, "
            "BatchNorm1d, BatchNorm2d, Flatten and Quadratic."
        )


def _convolve(run: _Run, layer: "nn.Conv2d", name: str) -> None:
    _require(not run.flat, name, "comes after a Flatten; put it before")
    _require(layer.padding_mode == "zeros", name, f"pads with {layer.padding_mode}; pad with zeros")
    _fits(name, layer.in_channels, run.shape[0])
    kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
    dilation = _pair(layer.dilation)
    padding = (0, 0) if layer.padding == "valid" else layer.padding
    _require(padding != "same", name, 'pads with "same"; give the padding as a number')
    weight = _floats(layer.weight)  # (out channels, in channels of a group, rows, columns)
    matrix, height, width = _convolution(
        weight, run.shape, groups=layer.groups, stride=stride, padding=_pair(padding), dilation=dilation, name=name
    )
    assert kernel == weight.shape[2:]
    run.then(matrix, np.repeat(_bias(layer.bias, layer.out_channels), height * width))
    _moved(run, (layer.out_channels, height, width), stride)


def _pool(run: _Run, layer: "nn.AvgPool2d", name: str) -> None:
    _require(not run.flat, name, "comes after a Flatten; put it before")
    kernel, padding = _pair(layer.kernel_size), _pair(layer.padding)
    _require(not layer.ceil_mode, name, "uses ceil_mode; choose a size that divides the image")
    _require(layer.count_include_pad or padding == (0, 0), name, "leaves padding out of its means; count it in")
    channels = run.shape[0]
    divisor = layer.divisor_override or kernel[0] * kernel[1]
    weight = np.full((channels, 1, *kernel), 1.0 / divisor)
    stride = _pair(layer.stride)
    matrix, height, width = _convolution(
        weight, run.shape, groups=channels, stride=stride, padding=padding, dilation=(1, 1), name=name
    )
    run.then(matrix, np.zeros(channels * height * width))
    _moved(run, (channels, height, width), stride)


def _moved(run: _Run, shape: Shape, stride: tuple[int, int]) -> None:
    run.shape = shape
    if run.stride is not None:
        run.stride = (run.stride[0] * stride[0], run.stride[1] * stride[1])


def _convolution(
    weight: Floats,
    shape: Shape,
    *,
    groups: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    name: str,
) -> tuple[csr_array, int, int]:
    """The matrix of a convolution on (channels, height, width), and height and width of the result."""
    channels, height, width = shape
    filters, per_group, *kernel = weight.shape
    sizes = [
        (size + 2 * pad - spacing * (taps - 1) - 1) // step + 1
        for size, pad, spacing, taps, step in zip((height, width), padding, dilation, kernel, stride, strict=True)
    ]
    _require(min(sizes) > 0, name, f"has a kernel larger than its input of {height} x {width}; use a smaller one")
    _require(
        weight.size * sizes[0] * sizes[1] <= MOST_WEIGHTS,
        name,
        f"is a matrix of {weight.size * sizes[0] * sizes[1]} weights; use fewer channels or a larger stride",
    )
    out = np.arange(filters)
    source = (out // (filters // groups))[:, None] * per_group + np.arange(per_group)
    rows, columns, values = [], [], []
    for down in range(kernel[0]):
        for right in range(kernel[1]):
            y = np.arange(sizes[0]) * stride[0] + down * dilation[0] - padding[0]
            x = np.arange(sizes[1]) * stride[1] + right * dilation[1] - padding[1]
            met_y, met_x = np.flatnonzero((y >= 0) & (y < height)), np.flatnonzero((x >= 0) & (x < width))
            to = met_y[:, None] * sizes[1] + met_x
            come = y[met_y][:, None] * width + x[met_x]
            row, column, value = np.broadcast_arrays(
                (out * sizes[0] * sizes[1])[:, None, None, None] + to,
                (source * height * width)[:, :, None, None] + come,
                weight[:, :, down, right][:, :, None, None],
            )
            rows.append(row.ravel())
            columns.append(column.ravel())
            values.append(value.ravel())
    matrix = coo_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(filters * sizes[0] * sizes[1], channels * height * width),
    )
    return csr_array(matrix), sizes[0], sizes[1]


def _normalisation(layer: "nn.BatchNorm1d | nn.BatchNorm2d") -> tuple[Floats, Floats]:
    factor = 1.0 / np.sqrt(_floats(layer.running_var) + layer.eps)
    shift = -factor * _floats(layer.running_mean)
    if layer.affine:
        weight = _floats(layer.weight)
        factor, shift = factor * weight, shift * weight + _floats(layer.bias)
    return factor, shift


def _pair(value: object) -> tuple[int, int]:
    return cast("tuple[int, int]", value if isinstance(value, tuple) else (value, value))


def _bias(bias: "Tensor | None", count: int) -> Floats:
    return np.zeros(count) if bias is None else _floats(bias)


def _floats(tensor: "Tensor | nn.Module | None") -> Floats:
    return np.array(cast("Tensor", tensor).detach().double().numpy())


def _fits(name: str, expected: int, given: int) -> None:
    _require(expected == given, name, f"takes {expected} channels or values, but gets {given}; make them equal")


def _require(condition: bool, name: str, said: str) -> None:
    if not condition:
        raise EncryptionError(f"Layer {name} {said}.")
