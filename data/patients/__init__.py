"""Whose scan it is: patient identity in tables, file names and DICOM headers, and contradictions between them."""
