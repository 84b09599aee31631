# What nanobind's generator of stubs leaves out: names of the module that it does not know to be types.
__suffix__:
    __version__: str

    class Error(RuntimeError):
        """A call that failed; str(error) says what was wrong and what is allowed."""

        status: str

    class InvalidArgument(Error, ValueError):
        """An argument that the library or this package does not take."""
