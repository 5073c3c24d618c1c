"""Real DICOM files, written by pydicom, for the tests of this folder."""

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

PATIENT = "Curie^Marie"


def write_dicom(path: Path, pixels: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, without=(), **fields) -> Path:
    """A chest radiograph of stored values (rows, columns); `fields` are added or changed, `without` left out."""
    bits = 8 * pixels.dtype.itemsize
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")  # computed radiography
    meta.MediaStorageSOPInstanceUID = generate_uid()
    little, implicit = syntax != "1.2.840.10008.1.2.2", syntax == "1.2.840.10008.1.2"
    header = FileDataset(
        str(path), {}, file_meta=meta, preamble=bytes(128), is_implicit_VR=implicit, is_little_endian=little
    )
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    header.PatientName, header.PatientID, header.Modality = PATIENT, "Marie-1867", "CR"
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = bits, bits, bits - 1
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    content = pixels.astype(pixels.dtype.newbyteorder("<" if little else ">")).tobytes()
    header.PixelData = content + bytes(len(content) % 2)
    header["PixelData"].VR = "OB" if bits == 8 else "OW"
    if "BitsStored" in fields and "HighBit" not in fields:
        header.HighBit = fields["BitsStored"] - 1
    for name, value in fields.items():
        setattr(header, name, value)
    for name in without:
        delattr(header, name)
    header.save_as(path, enforce_file_format=True, implicit_vr=implicit, little_endian=little)
    return path
