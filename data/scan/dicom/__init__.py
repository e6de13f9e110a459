"""DICOM files: header, frames and pixel data. What the files of a series become together is in data/scan/series.py."""
