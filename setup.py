"""All metadata is in setup.cfg; here is what it cannot hold, the extensions, without which the package works too."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            f"kafkapipes.kafka.{name}",
            [f"kafkapipes/kafka/{name}.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],  # one build for Python 3.11 and all that follow
            py_limited_api=True,
            optional=True,  # where there is no compiler, the Python client reads
        )
        for name in ("_native", "_batches")
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
