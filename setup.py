"""All metadata is in setup.cfg; here is what it cannot hold, the extension, without which the package works too."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "kafkapipes.kafka._native",
            ["kafkapipes/kafka/_native.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],  # one build for Python 3.11 and all that follow
            py_limited_api=True,
            optional=True,  # where there is no compiler, the Python client reads
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
