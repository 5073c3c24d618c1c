"""A real service, real keys, the viewer in a process of its own, and a real browser."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnosing import NAME, Registry, Service, running
from PIL import Image

from primia.diagnosis.client.client import Client
from primia.diagnosis.service.release import Release
from primia.encrypted.bundle import save_bundle

PATIENCE_S = 300.0  # for whatever a busy machine takes; nothing waits longer than it must
BROWSERS = ("chromium", "google-chrome", "google-chrome-stable")
VIEWER = "import typer; from primia.cli_viewer import viewer; typer.run(viewer)"


@dataclass(frozen=True)
class Viewer:
    address: str  # with the token behind #
    folder: Path  # where it runs; its keys are in "keys", its temporary files in "tmp"

    @property
    def origin(self) -> str:
        return self.address.split("/#")[0]

    @property
    def token(self) -> str:
        return self.address.split("#")[1]


@pytest.fixture(scope="module")
def service(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    save_bundle(folder / "bundle", small.bundle)
    release = Release(name=NAME, version="7", marks="unfit for patients", folder=folder / "bundle")
    with running(folder, Registry(release)) as here:
        yield here


@pytest.fixture(scope="module")
def viewer(chromium: Any, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    folder = tmp_path_factory.mktemp("clinic")
    Client.keygen(folder / "keys", service.url, token=service.issue(), model=NAME)
    (folder / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", VIEWER, "--keys", "keys", "--port", "0"],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().removeprefix("Open ").strip()
        assert address.startswith("http://127.0.0.1:"), address
        yield Viewer(address, folder)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="module")  # no longer: Playwright keeps an event loop running meanwhile
def chromium() -> Iterator[Any]:
    """A browser to open pages in; it resolves no name but the one that plays a rebound host."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("There is no Chromium on the PATH (apt-get install chromium): the viewer's page is not tested.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            timeout=1000 * PATIENCE_S,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--host-resolver-rules=MAP rebound.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def radiograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey PNG, higher than wide."""
    rows, columns = np.mgrid[0:120, 0:100]
    grey = 90 + 80 * np.cos(columns / 16) + 60 * np.sin(rows / 30)
    path = tmp_path_factory.mktemp("images") / "radiograph.png"
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def make_dicom() -> Callable[..., None]:
    """Write a 12-bit chest radiograph without compression."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    def make(path: Path, *, rows: int, columns: int) -> None:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        header.Modality, header.PhotometricInterpretation = "DX", "MONOCHROME2"
        header.Rows, header.Columns, header.SamplesPerPixel = rows, columns, 1
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
        shade = np.linspace(0, 4095, rows * columns).reshape(rows, columns)
        header.PixelData = shade.astype("<u2").tobytes()
        header.save_as(path, enforce_file_format=True)

    return make
