import json
import stat
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from primia.encrypted.bundle import load_bundle, save_bundle
from primia.encrypted.parameters import parse_specification
from primia.errors import DataError, EncryptionError


@pytest.fixture
def folder(small, tmp_path):
    save_bundle(tmp_path / "bundle", small.bundle)
    return tmp_path / "bundle"


def test_a_bundle_comes_back_as_it_was_saved(small, folder) -> None:
    loaded = load_bundle(folder)
    assert loaded.specification == small.bundle.specification
    assert loaded.plan.steps == small.bundle.plan.steps
    assert loaded.plan.largest == small.bundle.plan.largest
    for saved, read in zip(small.bundle.plan.matrices, loaded.plan.matrices, strict=True):
        assert (saved != read).nnz == 0
    assert sorted(path.name for path in folder.iterdir()) == ["bundle.json", "weights.safetensors"]
    assert all(stat.S_ISREG(path.stat().st_mode) for path in folder.iterdir())


def test_a_bundle_is_loaded_without_torch(folder) -> None:
    code = (
        "import sys; from pathlib import Path; from primia.encrypted.engine import Engine; "
        "from primia.encrypted.bundle import load_bundle; Engine(load_bundle(Path(sys.argv[1])).plan); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


@pytest.mark.parametrize("name", ["data0", "offset2"])
def test_a_changed_weight_is_refused(folder, name) -> None:
    tensors = load_file(folder / "weights.safetensors")
    tensors[name][0] += 1e-6
    save_file(tensors, folder / "weights.safetensors")
    with pytest.raises(EncryptionError, match="changed after export"):
        load_bundle(folder)


def reversed_columns(tensors: dict[str, np.ndarray]) -> None:
    tensors["indices0"] = tensors["indices0"][::-1].copy()


def column_out_of_range(tensors: dict[str, np.ndarray]) -> None:
    tensors["indices0"][-1] = 64


def rows_backwards(tensors: dict[str, np.ndarray]) -> None:
    tensors["indptr0"][1] = -5


def other_type(tensors: dict[str, np.ndarray]) -> None:
    tensors["indices0"] = tensors["indices0"].astype(np.int32)


@pytest.mark.parametrize("change", [reversed_columns, column_out_of_range, rows_backwards, other_type])
def test_a_matrix_that_is_not_in_canonical_form_is_refused(folder, change) -> None:
    tensors = load_file(folder / "weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "weights.safetensors")
    with pytest.raises(EncryptionError, match="damaged or incomplete"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"baby": 3}, "do not fit one another"),
        ({"baby": 1}, "changed after export"),
        ({"kind": "spread"}, "do not fit one another"),
        ({"label": "another"}, "changed after export"),
        ({"kind": "sideways"}, "damaged"),
    ],
)
def test_a_changed_step_is_refused(folder, change, said) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["steps"][2] |= change
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(EncryptionError, match=said):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("classes", ["viral", "bacterial", "normal"], "changed after export"),
        ("mean", 0.4, "changed after export"),
        ("teacher_digest", "cd" * 32, "changed after export"),
        ("front", "scattering", "damaged"),
        ("packing", {"channels": 1, "height": 9, "width": 9, "patch": 1, "stride": None}, "changed after export"),
        ("packing", {"channels": 1, "height": 8, "width": 8, "patch": 3, "stride": 64}, "damaged"),
        ("std", 0.0, "damaged"),
        ("surprise", 1, "damaged"),
    ],
)
def test_a_changed_specification_is_refused(folder, key, value, said) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["specification"][key] = value
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(EncryptionError, match=said):
        load_bundle(folder)


def test_a_torn_or_missing_file_is_said(folder) -> None:
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(EncryptionError, match="damaged or incomplete"):
        load_bundle(folder)
    weights.unlink()
    with pytest.raises(EncryptionError, match="damaged or incomplete"):
        load_bundle(folder)
    (folder / "bundle.json").write_text("{}")
    with pytest.raises(EncryptionError, match="format 2"):
        load_bundle(folder)
    (folder / "bundle.json").unlink()
    with pytest.raises(DataError, match=r"bundle\.json is missing"):
        load_bundle(folder)


def test_one_class_name_per_output_is_asked_for(small, export) -> None:
    with pytest.raises(EncryptionError, match="tells 3 classes apart, but 2 were named"):
        export(small.network, ("normal", "viral"))


def test_a_specification_says_what_is_wrong_with_it() -> None:
    with pytest.raises(EncryptionError, match=r"http://here gave no valid model specification \(parameters: Field req"):
        parse_specification(b"{}", where="http://here")
