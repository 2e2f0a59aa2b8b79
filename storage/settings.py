"""Where an operator keeps the videos: the part of the application's `args` that names a bucket. Credentials are not
here; they come from the chain that every AWS tool follows: environment, profile, web identity, instance role."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from storage.keys import check_template

MIB = 2**20

Url = Annotated[str, Field(pattern=r"^https?://[^/?#]+/?$")]


class BucketSettings(BaseModel):
    """A bucket of Amazon S3, or of anything that speaks its protocol."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    prefix: str = Field(default="", pattern=r"^$|^[A-Za-z0-9!_.*'()-][A-Za-z0-9!_.*'()/-]*/$", max_length=256)
    """Every key begins with it; it ends in a slash."""
    folders: Annotated[str, AfterValidator(check_template)] = Field(
        default="{id}", pattern=r"^[A-Za-z0-9!_.*'()={}/-]+$", max_length=256
    )
    """Where among `videos/` each job has its files: a template with {id}, {model}, {date}, {year}, {month}, {day}."""
    endpoint_url: Url | None = None
    """Of a server other than Amazon's."""
    public_endpoint_url: Url | None = None
    """The same server as clients reach it, where that is another name; presigned URLs lead there."""
    region: str | None = None
    path_style: bool = False
    """https://host/bucket/key instead of https://bucket.host/key."""
    encryption: Literal["AES256", "aws:kms"] | None = None
    """At rest, by the server: its own keys, or KMS. None leaves it to the bucket's default."""
    kms_key_id: str | None = None
    tags: bool = True
    """Tag each object with its job, model and the time it was asked to stay; some servers know no tags."""
    cache_control: str = "private, max-age=31536000, immutable"
    presigned_url_expires_s: int = Field(default=3600, ge=1, le=7 * 24 * 3600)
    """How long a URL that /content leads to is good for."""
    multipart_threshold_mib: int = Field(default=64, ge=5, le=5000)
    """From this size on an object is sent in parts."""
    part_mib: int = Field(default=8, ge=5, le=5000)
    parallel_parts: int = Field(default=8, ge=1, le=64)

    spool_mib: int = Field(default=4096, ge=0)
    """How much of a node's disk checkpoints may take while the bucket cannot be reached."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kms_key_id is not None and self.encryption != "aws:kms":
            raise ValueError("kms_key_id needs encryption: aws:kms")
        return self
