"""What can go wrong with stored things. Messages are one line: the thing, what is the matter, the remedy."""


class ArtifactError(Exception):
    """Base of every error of this package."""


class StoreError(ArtifactError):
    """The store cannot be used: unwritable, full, holding something else, of another format, or a refused key."""


class AlreadyThere(StoreError):
    """A conditional put found the key taken; the stored object is untouched."""


class MissingArtifact(ArtifactError):
    """The store has no object under this key."""


class DamagedArtifact(ArtifactError):
    """The object's bytes are not the ones that were stored, or not what their name says they are."""
