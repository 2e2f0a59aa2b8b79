"""The bucket settings in the application's `args`. They hold no credentials; those come from the chain that every AWS
tool follows: environment, profile, web identity, instance role."""

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
    """The beginning of every key; it ends in a slash."""
    folders: Annotated[str, AfterValidator(check_template)] = Field(
        default="{id}", pattern=r"^[A-Za-z0-9!_.*'()={}/-]+$", max_length=256
    )
    """The folder of each job under `videos/`: a template with {id}, {model}, {date}, {year}, {month}, {day}."""
    endpoint_url: Url | None = None
    """The URL of a server other than Amazon's."""
    public_endpoint_url: Url | None = None
    """The URL by which clients reach the same server, if it differs; presigned URLs use it."""
    region: str | None = None
    path_style: bool = False
    """https://host/bucket/key instead of https://bucket.host/key."""
    encryption: Literal["AES256", "aws:kms"] | None = None
    """Encryption at rest by the server, with its own keys or KMS. None uses the bucket's default."""
    kms_key_id: str | None = None
    tags: bool = True
    """Tag each object with its job, model and requested retention time; some servers do not support tags."""
    cache_control: str = "private, max-age=31536000, immutable"
    presigned_url_expires_s: int = Field(default=3600, ge=1, le=7 * 24 * 3600)
    """How long a URL to which /content redirects is valid, in seconds."""
    multipart_threshold_mib: int = Field(default=64, ge=5, le=5000)
    """Objects of this size or more are sent in parts."""
    part_mib: int = Field(default=8, ge=5, le=5000)
    parallel_parts: int = Field(default=8, ge=1, le=64)

    spool_mib: int = Field(default=4096, ge=0)
    """The most disk space of a node for spooled checkpoints while the bucket is unavailable, in MiB."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kms_key_id is not None and self.encryption != "aws:kms":
            raise ValueError("kms_key_id needs encryption: aws:kms")
        return self
