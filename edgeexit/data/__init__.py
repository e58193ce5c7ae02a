"""Samples and labels from image folders, picture files and `.npz` archives, read as they are needed."""

from edgeexit.data.dataset import Dataset, Source
from edgeexit.data.opening import open_data, open_files
from edgeexit.data.survey import Survey, survey

__all__ = ["Dataset", "Source", "Survey", "open_data", "open_files", "survey"]
