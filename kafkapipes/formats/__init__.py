"""Formats: how the bytes of a record become numbers, one file a format, and the table of them by `input_format`.

A format is a frozen dataclass made by `from_config(input_config)` with the fields `data_type`, `label_type`,
`data_shape` and `label_shape`; a new one is a new file and a new line here.
"""

from kafkapipes.formats.raw import RawFormat

FORMATS = {"RAW": RawFormat}
