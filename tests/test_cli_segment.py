"""`primia segment`: a mask for a volume, on the grid that the volume came with."""

import nibabel
import numpy as np
import pytest
import torch
from nifti_files import affine, intensities, save, structures
from torch import nn
from typer.testing import CliRunner

from primia.cli import app
from primia.config import Volume
from primia.data.nifti import read_volume
from primia.errors import DataError, PrimiaError
from primia.models.marking import mark
from primia.models.networks import Network, build_network
from primia.models.released import ReleasedModel, load_model, save_model

CLASSES = ("background", "anterior", "posterior")
# Axes in an order of their own, two of them turned round, thick slices, and all of it tilted.
SCANNER = affine(order=(2, 0, 1), directions=(-1, 1, -1), spacing=(3.0, 1.0, 1.0), tilt=0.2)


def reader(volume):
    """A network that tells structures by their grey levels, so that its mask is known beforehand."""
    convolution = nn.Conv2d if volume.depth is None else nn.Conv3d
    levels = convolution(1, 3, 1)
    with torch.no_grad():
        levels.weight.view(3).copy_(torch.tensor([-60.0, 0.0, 60.0]))
        levels.bias.copy_(torch.tensor([60 * 0.4, 0.0, -60 * 0.75]))
    return ReleasedModel(
        network=Network(front=nn.Identity(), head=levels),
        architecture="unet",
        classes=CLASSES,
        pixels=32,
        volume=volume,
        mean=0.0,
        std=1.0,
        round=1,
    )


@pytest.fixture
def scan(tmp_path):
    truth = structures((14, 20, 24))
    values = intensities(truth, seed=1)
    return save(tmp_path / "scan.nii.gz", values, SCANNER), truth


@pytest.mark.parametrize("depth", [None, 56])
def test_a_mask_overlays_its_volume_voxel_by_voxel_however_the_scanner_stores_it(scan, depth):
    path, truth = scan
    volume = Volume(spacing=(1.0, 1.0, 1.0), window=(0.0, 800.0), depth=depth)
    marked = mark(reader(volume), read_volume(path))
    assert marked.shape == truth.shape and marked.dtype == np.uint8
    for structure in (1, 2):
        said, true = marked == structure, truth == structure
        assert 2 * (said & true).sum() / (said.sum() + true.sum()) > 0.9


@pytest.fixture
def model(tmp_path):
    network = build_network("jet", classes=3, pixels=32, seed=1, depth=16)
    with torch.no_grad():  # a fresh one gives every class the same
        network.head.last.weight.normal_(generator=torch.Generator().manual_seed(1))
    made = ReleasedModel(
        network=network,
        architecture="jet",
        classes=CLASSES,
        pixels=32,
        volume=Volume(spacing=(1.0, 1.0, 3.0), depth=16),
        mean=0.3,
        std=0.2,
        round=1,
    )
    save_model(tmp_path / "model", made)
    return tmp_path / "model"


def segment(*arguments):
    return CliRunner().invoke(app, ["segment", *map(str, arguments)])


def test_the_command_writes_a_mask_with_the_affine_of_the_volume_and_says_how_much_it_marked(scan, model):
    path, truth = scan
    answer = segment(path, "--model", model)
    assert answer.exit_code == 0, answer.output
    made = nibabel.load(path.with_name("scan_mask.nii.gz"))
    np.testing.assert_allclose(made.affine, nibabel.load(path).affine, atol=1e-4)
    assert made.shape == truth.shape and made.get_data_dtype() == np.uint8
    voxels = int((np.asarray(made.dataobj) == 1).sum())
    assert f"1 anterior    {voxels:>9} voxels  {voxels * 0.003:8.2f} ml" in answer.output
    assert "not a medical device" in answer.output


def test_the_same_volume_gives_the_same_bytes(scan, model, tmp_path):
    path, _ = scan
    for name in ("one", "two"):
        assert segment(path, "--model", model, "--out", tmp_path / f"{name}.nii.gz").exit_code == 0
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


@pytest.mark.parametrize("name", ["imagesTr", "labelsTr", "imagesTr/site1"])
def test_a_mask_is_not_laid_among_the_files_of_a_data_set(scan, model, tmp_path, name):
    path, _ = scan
    (tmp_path / name).mkdir(parents=True)
    volume = path.rename(tmp_path / name / path.name)
    answer = segment(volume, "--model", model)
    assert isinstance(answer.exception, PrimiaError) and "among the files of a data set" in str(answer.exception)
    assert [file.name for file in (tmp_path / name).iterdir()] == [path.name]
    assert segment(volume, "--model", model, "--out", tmp_path / "mask.nii.gz").exit_code == 0


@pytest.mark.parametrize(
    ("out", "sentence"),
    [("scan.nii.gz", "would replace the volume"), ("mask.png", "end it in .nii or .nii.gz")],
)
def test_a_mask_replaces_no_volume_and_is_named_as_what_it_is(scan, model, tmp_path, out, sentence):
    path, _ = scan
    before = path.read_bytes()
    answer = segment(path, "--model", model, "--out", tmp_path / out)
    assert isinstance(answer.exception, PrimiaError) and sentence in str(answer.exception)
    assert path.read_bytes() == before


def test_a_mask_that_is_there_is_replaced_only_on_demand(scan, model, tmp_path):
    path, _ = scan
    mask = path.with_name("scan_mask.nii.gz")
    mask.write_bytes(b"by an expert")
    answer = segment(path, "--model", model)
    assert isinstance(answer.exception, PrimiaError) and "replace it with --overwrite" in str(answer.exception)
    assert mask.read_bytes() == b"by an expert"
    assert segment(path, "--model", model, "--overwrite").exit_code == 0 and mask.read_bytes() != b"by an expert"


@pytest.mark.parametrize(
    ("name", "sentence"), [("folder.nii.gz", "would be a folder's name"), (f"{'m' * 300}.nii", "cannot be written")]
)
def test_a_mask_that_cannot_be_written_is_said_before_anything_is_marked(scan, model, tmp_path, name, sentence):
    (tmp_path / "folder.nii.gz").mkdir()
    answer = segment(scan[0], "--model", model, "--out", tmp_path / name)
    assert isinstance(answer.exception, PrimiaError) and sentence in str(answer.exception)


def test_a_volume_that_the_model_sees_little_of_is_marked_only_on_demand(model, tmp_path):
    large = save(tmp_path / "large.nii.gz", intensities(structures((64, 64, 16)), seed=1))
    answer = segment(large, "--model", model)
    assert isinstance(answer.exception, PrimiaError) and "sees 25% of" in str(answer.exception)
    assert not (tmp_path / "large_mask.nii.gz").exists()
    answer = segment(large, "--model", model, "--partly")
    assert answer.exit_code == 0 and "sees 25% of the volume, about its middle" in answer.output
    inside = np.asarray(nibabel.load(tmp_path / "large_mask.nii.gz").dataobj)[16:-16, 16:-16]
    assert np.count_nonzero(inside) == np.count_nonzero(nibabel.load(tmp_path / "large_mask.nii.gz").dataobj) > 0


def test_a_model_that_diverged_marks_nothing(scan):
    model = reader(Volume(spacing=(1.0, 1.0, 1.0), window=(0.0, 800.0)))
    with torch.no_grad():
        model.network.head.bias.fill_(float("nan"))
    with pytest.raises(DataError, match="no numbers"):
        mark(model, read_volume(scan[0]))


def test_a_volume_that_is_none_leaves_nothing_behind(model, tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"no volume")
    answer = segment(tmp_path / "bad.nii.gz", "--model", model)
    assert isinstance(answer.exception, PrimiaError) and "is no NIfTI volume" in str(answer.exception)
    assert not (tmp_path / "bad_mask.nii.gz").exists()


def test_a_blank_volume_is_refused_and_an_empty_mask_said(model, tmp_path):
    blank = save(tmp_path / "blank.nii", np.full((14, 20, 24), 5.0, np.float32), SCANNER)
    answer = segment(blank, "--model", model)
    assert isinstance(answer.exception, PrimiaError) and "has the same value in all voxels" in str(answer.exception)
    assert not (tmp_path / "blank_mask.nii.gz").exists()
    finds_nothing = load_model(model)
    with torch.no_grad():
        finds_nothing.network.head.last.bias[0] = 1000.0  # of the background
    save_model(tmp_path / "finds-nothing", finds_nothing)
    noise = intensities(structures((14, 20, 24)), seed=1)
    answer = segment(save(tmp_path / "noise.nii", noise, SCANNER), "--model", tmp_path / "finds-nothing")
    assert answer.exit_code == 0 and "Nothing is marked: look whether" in answer.output


@pytest.mark.parametrize("place", ["nowhere", "", "a" * 300])
def test_a_folder_without_a_model_is_named_with_what_could_be_given(scan, tmp_path, place):
    answer = segment(scan[0], "--model", tmp_path / place)
    assert isinstance(answer.exception, PrimiaError)
    assert f"The folder {tmp_path / place} holds no model.json; name the folder of a model" in str(answer.exception)


def test_a_model_of_pictures_is_refused(scan, tmp_path):
    path, _ = scan
    network = build_network("convnet", classes=3, pixels=32, seed=1)
    model = ReleasedModel(
        network=network, architecture="convnet", classes=CLASSES, pixels=32, mean=0.3, std=0.2, round=1
    )
    save_model(tmp_path / "pictures", model)
    answer = segment(path, "--model", tmp_path / "pictures")
    assert isinstance(answer.exception, PrimiaError) and "marks nothing in volumes" in str(answer.exception)
