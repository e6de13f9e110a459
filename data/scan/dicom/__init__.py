"""Reading single DICOM files: header, frames and pixel data; no series of files (data/scan/series.py)."""
