"""What a provider file that cannot be served raises."""


class ProviderFileError(Exception):
    """The provider file, or what the settings say about it, cannot be served; a line each, no secret in any."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
