"""Patient identity in tables, file names and DICOM headers, and contradictions between them."""
